"""Publishing that the stream confirms: bounded, and repeated until it is."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import nats.errors
from nats.aio.msg import Msg
from pydantic_core import from_json

from visionmesh.bus.api import STREAM_FULL, TOO_LARGE, WRONG_LAST_SEQUENCE, ApiError
from visionmesh.bus.connection import Connection
from visionmesh.errors import Code, Refused

CONFIRM_WITHIN = timedelta(seconds=5)
"""After this long without a word of the server a message is sent again."""
DECLARED_WITHIN = timedelta(milliseconds=100)
"""Before messages are sent again to a stream that is not there."""
_EXPECT_NONE = {"Nats-Expected-Last-Subject-Sequence": "0"}
_NO_RESPONDERS = "503"
_AROUND_HEADERS = len(b"NATS/1.0\r\n\r\n")
_EVENTS = "vm.events."


class Message(NamedTuple):
    """What is to be stored where."""

    subject: str
    body: bytes
    headers: dict[str, str] | None = None

    @property
    def size(self) -> int:
        """Bytes of the headers, as they are sent, and the body."""
        headers = (self.headers or {}).items()
        lines = sum(len(f"{name}: {value}\r\n".encode()) for name, value in headers)
        return len(self.body) + (lines + _AROUND_HEADERS if lines else 0)


class Publisher:
    """Sends messages to streams and awaits their confirmation.

    One inbox takes all confirmations. A message may be stored twice when a confirmation is lost;
    where that matters, use ``once`` or a ``Nats-Msg-Id``.
    """

    def __init__(self, *, connection: Connection, max_pending: int = 512) -> None:
        self._connection = connection
        self._slots = asyncio.Semaphore(max_pending)
        self._inbox = connection.client.new_inbox()
        self._numbers = itertools.count()
        self._waiting: dict[str, asyncio.Future[Msg]] = {}

    async def start(self) -> None:
        await self._connection.client.subscribe(f"{self._inbox}.*", cb=self._confirmed)
        self._connection.on_return(self._send_again)

    def _send_again(self) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ConnectionResetError())

    async def _confirmed(self, message: Msg) -> None:
        future = self._waiting.get(message.subject)
        if future is not None and not future.done():
            future.set_result(message)

    async def publish(
        self,
        subject: str,
        body: bytes,
        *,
        headers: dict[str, str] | None = None,
        within: timedelta | None = None,
    ) -> int:
        """Store ``body`` in the stream that listens to ``subject``; return its sequence number.

        Without ``within`` a lost connection is waited out for as long as it takes.

        Raises
        ------
        Refused
            If no stream listens (unknown_model), the stream is full (mesh_full), the message is
            too large (payload_too_large), or time ran out (mesh_unreachable).
        ApiError
            If the stream refused it for another reason.
        """
        try:
            async with asyncio.timeout(within.total_seconds() if within else None), self._slots:
                (answer,) = await self._until_confirmed([Message(subject, body, headers)])
        except TimeoutError as error:
            raise Refused(
                Code.MESH_UNREACHABLE,
                "The mesh did not confirm the message in time; it may be sent again.",
            ) from error
        return _sequence(subject, answer)

    def takes(self, message: Message) -> bool:
        """Say whether the server takes so large a message of `publish_once`."""
        return _once(message).size <= self._connection.max_payload

    async def publish_once(self, messages: Sequence[Message]) -> list[bool]:
        """Store each message unless its subject holds one already; say which were stored."""
        new = [_once(message) for message in messages]
        async with self._slots:
            answers = await self._until_confirmed(new)
        return [_is_new(message, answer) for message, answer in zip(new, answers, strict=True)]

    async def _until_confirmed(self, messages: Sequence[Message]) -> list[Msg]:
        """Send until the server has said a word to each message; return its words in order."""
        answers: dict[int, Msg] = {}
        while True:
            await self._connection.wait_up()
            left = [number for number in range(len(messages)) if number not in answers]
            replies = [f"{self._inbox}.{next(self._numbers)}" for _ in left]
            try:
                futures = [
                    await self._send(messages[number], reply)
                    for number, reply in zip(left, replies, strict=True)
                ]
                await asyncio.wait(futures, timeout=CONFIRM_WITHIN.total_seconds())
                for number, future in zip(left, futures, strict=True):
                    if future.done() and future.exception() is None:
                        answers[number] = future.result()
            except nats.errors.OutboundBufferLimitError:
                await asyncio.sleep(DECLARED_WITHIN.total_seconds())
                continue
            finally:
                for reply in replies:
                    self._waiting.pop(reply, None)
            lost = [n for n, answer in answers.items() if _is_undeclared(messages[n], answer)]
            for number in lost:
                del answers[number]
            if len(answers) == len(messages):
                return [answers[number] for number in range(len(messages))]
            if lost:
                await asyncio.sleep(DECLARED_WITHIN.total_seconds())

    async def _send(self, message: Message, reply: str) -> asyncio.Future[Msg]:
        future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._waiting[reply] = future
        # The server would end the connection for headers that the client does not count.
        if message.size > self._connection.max_payload:
            raise Refused(
                Code.PAYLOAD_TOO_LARGE,
                f"The message has {message.size:,} bytes; the server takes at most "
                f"{self._connection.max_payload:,}.",
            )
        await self._connection.client.publish(
            message.subject, message.body, reply=reply, headers=message.headers
        )
        return future


def _once(message: Message) -> Message:
    return message._replace(headers={**(message.headers or {}), **_EXPECT_NONE})


def _unheard(message: Msg) -> bool:
    return not message.data and (message.headers or {}).get("Status") == _NO_RESPONDERS


def _is_undeclared(message: Message, answer: Msg) -> bool:
    """Say whether the stream is missing that a restarted server has lost with its memory.

    Its readers declare it again. EVENTS is no such stream: what it does not take is refused.
    """
    return _unheard(answer) and not message.subject.startswith(_EVENTS)


def _is_new(message: Message, answer: Msg) -> bool:
    try:
        _sequence(message.subject, answer)
    except ApiError as error:
        if error.number != WRONG_LAST_SEQUENCE:
            raise
        return False
    return True


def _sequence(subject: str, message: Msg) -> int:
    if _unheard(message):
        model = subject.split(".")[2] if subject.count(".") > 1 else subject
        raise Refused(
            Code.UNKNOWN_MODEL,
            f"There is no model {model!r} in the mesh, or nothing serves it yet; push it, "
            "or look at `visionmesh list`.",
        )
    answer: dict[str, Any] = from_json(message.data)
    if error := answer.get("error"):
        number = error.get("err_code", 0)
        description = error.get("description", "refused")
        if description in TOO_LARGE:
            raise Refused(
                Code.PAYLOAD_TOO_LARGE, "The message is larger than a stream can keep (32 MiB)."
            )
        if number in STREAM_FULL:
            raise Refused(
                Code.MESH_FULL,
                f"The mesh is full ({description}): try again a little later.",
            )
        raise ApiError(subject=subject, number=number, description=description)
    return int(answer["seq"])
