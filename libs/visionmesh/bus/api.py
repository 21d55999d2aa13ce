"""JetStream's JSON interface: requests, and the errors that it answers with."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from pydantic_core import from_json, to_json

from visionmesh.errors import Code, ConfigurationError, Refused, Retry

STREAM_NOT_FOUND = 10059
NO_MESSAGE = 10037
STREAM_NAME_IN_USE = 10058
WRONG_LAST_SEQUENCE = 10071
STREAM_FULL = frozenset({10077, 10047, 10023})
"""Limits of the stream, of the account and of the server's storage (JSStreamStoreFailedF,
JSStorageResourcesExceeded and JSInsufficientResources in the server's list of error codes)."""
TOO_LARGE = ("message too large", "message size exceeds maximum allowed")
"""What the server says, under one of these numbers too, of a message that will never fit."""

REQUEST_TIMEOUT = timedelta(seconds=5)


class ApiError(ConfigurationError):
    """JetStream refused a request; ``number`` is its own error code."""

    def __init__(self, *, subject: str, number: int, description: str) -> None:
        if number == STREAM_NOT_FOUND:
            message = "No mesh has used this NATS server yet: start one with `visionmesh up`."
        else:
            message = f"{subject}: {description} ({number})"
        super().__init__(Code.MESH_INCOMPATIBLE, message)
        self.number = number


async def request(
    nc: Client, subject: str, payload: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Send ``payload`` to ``$JS.API.<subject>`` and return the decoded answer.

    Raises
    ------
    ApiError
        If the server answered with an error.
    Refused
        If no server with JetStream answered (mesh_unreachable).
    """
    body = to_json(payload) if payload is not None else b""
    try:
        message = await nc.request(
            f"$JS.API.{subject}", body, timeout=REQUEST_TIMEOUT.total_seconds()
        )
    except nats.errors.NoRespondersError as error:
        raise Refused(
            Code.MESH_UNREACHABLE, "The NATS server runs without JetStream: start it with -js."
        ) from error
    except (nats.errors.TimeoutError, nats.errors.OutboundBufferLimitError) as error:
        raise Retry(
            "The NATS server did not answer in time.", code=Code.MESH_UNREACHABLE
        ) from error
    answer: dict[str, Any] = from_json(message.data)
    if "error" in answer:
        error_ = answer["error"]
        raise ApiError(
            subject=subject,
            number=error_.get("err_code", 0),
            description=error_.get("description", "refused"),
        )
    return answer


async def sequence_of(nc: Client, stream: str, **query: str | int) -> int | None:
    """Return where ``stream`` keeps a message now, as its leader knows; `None`: it has none.

    ``query`` is ``last_by_subj``, or ``seq`` and ``next_by_subj``: from there on. The message comes
    along, so this is not for large ones in a loop.

    Raises
    ------
    ApiError
        If there is no such stream.
    Refused, Retry
        If the server does not answer now (mesh_unreachable).
    """
    try:
        answer = await request(nc, f"STREAM.MSG.GET.{stream}", dict(query))
    except ApiError as error:
        if error.number != NO_MESSAGE:
            raise
        return None
    return int(answer["message"]["seq"])


async def stored_message(nc: Client, stream: str, **query: str | int) -> Msg | None:
    """Return a message as ``stream`` keeps it, by ``seq`` or ``last_by_subj``; `None`: it has none.

    Raises
    ------
    Retry
        If the server does not answer now (mesh_unreachable).
    """
    try:
        message: Msg = await nc.request(
            f"$JS.API.DIRECT.GET.{stream}",
            to_json(query),
            timeout=REQUEST_TIMEOUT.total_seconds(),
        )
    except nats.errors.Error as error:
        raise Retry(
            "The NATS server did not answer in time.", code=Code.MESH_UNREACHABLE
        ) from error
    # A message of the stream says where it was; headers of the same name may be the producer's.
    return message if "Nats-Sequence" in (message.headers or {}) else None
