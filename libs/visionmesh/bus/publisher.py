"""Publishing that the stream confirms: bounded, and repeated until it is."""

from __future__ import annotations

import asyncio
import itertools
from datetime import timedelta
from typing import Any

import nats.errors
import orjson
from nats.aio.msg import Msg

from visionmesh.bus.api import STREAM_FULL, WRONG_LAST_SEQUENCE, ApiError
from visionmesh.bus.connection import Connection
from visionmesh.errors import Code, Refused

CONFIRM_WITHIN = timedelta(seconds=5)
"""After this long without a word of the server a message is sent again."""
DECLARED_WITHIN = timedelta(milliseconds=100)
"""Before a message is sent again to a stream that is not there."""
_EXPECT_NONE = {"Nats-Expected-Last-Subject-Sequence": "0"}
_NO_RESPONDERS = "503"
_EVENTS = "vm.events."


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
        async with self._slots:
            try:
                async with asyncio.timeout(within.total_seconds() if within else None):
                    answer = await self._until_confirmed(subject, body, headers)
            except TimeoutError as error:
                raise Refused(
                    Code.MESH_UNREACHABLE,
                    "The mesh did not confirm the message in time; it may be sent again.",
                ) from error
        return _sequence(subject, answer)

    async def publish_once(
        self, subject: str, body: bytes, *, headers: dict[str, str] | None = None
    ) -> bool:
        """Store ``body`` unless the subject holds a message already; say whether it was stored."""
        try:
            await self.publish(subject, body, headers={**(headers or {}), **_EXPECT_NONE})
        except ApiError as error:
            if error.number != WRONG_LAST_SEQUENCE:
                raise
            return False
        return True

    async def _until_confirmed(
        self, subject: str, body: bytes, headers: dict[str, str] | None
    ) -> Msg:
        while True:
            await self._connection.wait_up()
            reply = f"{self._inbox}.{next(self._numbers)}"
            future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
            self._waiting[reply] = future
            try:
                await self._connection.client.publish(subject, body, reply=reply, headers=headers)
                async with asyncio.timeout(CONFIRM_WITHIN.total_seconds()):
                    answer = await future
                if subject.startswith(_EVENTS) or not _unheard(answer):
                    return answer
                # A restarted server has lost its memory streams; their readers declare them again.
                await asyncio.sleep(DECLARED_WITHIN.total_seconds())
            except nats.errors.MaxPayloadError as error:
                raise Refused(
                    Code.PAYLOAD_TOO_LARGE,
                    f"The message has {len(body):,} bytes; the server takes at most "
                    f"{self._connection.max_payload:,}.",
                ) from error
            except (TimeoutError, ConnectionResetError, nats.errors.OutboundBufferLimitError):
                continue
            finally:
                del self._waiting[reply]


def _unheard(message: Msg) -> bool:
    return not message.data and (message.headers or {}).get("Status") == _NO_RESPONDERS


def _sequence(subject: str, message: Msg) -> int:
    if _unheard(message):
        model = subject.split(".")[2] if subject.count(".") > 1 else subject
        raise Refused(
            Code.UNKNOWN_MODEL,
            f"Nothing in the mesh listens to {subject}: is the model {model!r} pushed? "
            "See `visionmesh list`.",
        )
    answer: dict[str, Any] = orjson.loads(message.data)
    if error := answer.get("error"):
        number = error.get("err_code", 0)
        description = error.get("description", "refused")
        if number in STREAM_FULL:
            raise Refused(
                Code.MESH_FULL,
                f"The mesh is full ({description}): try again a little later.",
            )
        raise ApiError(subject=subject, number=number, description=description)
    return int(answer["seq"])
