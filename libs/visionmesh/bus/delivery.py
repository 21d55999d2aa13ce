"""One message from a consumer, and what can be said about it to the server."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

from nats.aio.msg import Msg

from visionmesh.bus.connection import Connection

_ACK = b"+ACK"
_SHORT_FORM = 9
"""Tokens of an ack subject without domain and account: $JS.ACK.stream.consumer.n.s.c.time.left."""


class Origin(NamedTuple):
    """What the ack subject tells of a delivery."""

    stream: str
    consumer: str
    attempt: int
    sequence: int
    stored_ns: int
    pending: int


def origin(ack: str) -> Origin:
    """Read an ack subject, in the server's short or its long form."""
    tokens = ack.split(".")
    if len(tokens) > _SHORT_FORM:
        tokens = tokens[:2] + tokens[4:]
    _, _, stream, consumer, attempt, sequence, _, stored, pending = tokens[:_SHORT_FORM]
    return Origin(stream, consumer, int(attempt), int(sequence), int(stored), int(pending))


async def acknowledge(connection: Connection, ack: str) -> None:
    """Say that the message behind ``ack`` is done; any connection may."""
    await connection.send(ack, _ACK)


async def return_later(connection: Connection, ack: str, delay: timedelta = timedelta(0)) -> None:
    """Give the message behind ``ack`` back, to be delivered again after ``delay``."""
    nanoseconds = int(delay.total_seconds() * 1e9)
    body = b"-NAK" if nanoseconds == 0 else b'-NAK {"delay": %d}' % nanoseconds
    await connection.send(ack, body)


class Delivery:
    """One message: its subject, headers and body, and the subject to settle it on."""

    __slots__ = ("ack", "body", "headers", "subject")

    def __init__(self, message: Msg) -> None:
        self.subject: str = message.subject
        self.headers: dict[str, str] = message.headers or {}
        self.body: bytes = message.data
        self.ack: str = message.reply
