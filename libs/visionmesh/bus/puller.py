"""The pull loop: two overlapping requests on one durable consumer, for ever."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

from nats.aio.msg import Msg
from pydantic_core import to_json

from visionmesh.bus.connection import Connection
from visionmesh.bus.delivery import Delivery, origin
from visionmesh.errors import VisionmeshError
from visionmesh.tasks import end

EXPIRES = timedelta(seconds=20)
HEARTBEAT = timedelta(seconds=2)
SILENCE = 2.5 * HEARTBEAT
"""Without a heartbeat for so long a request is taken for lost and sent again."""
MAX_BYTES = 48 << 20
"""Of one request; a server drops a client that it owes more than its max_pending (64 MiB)."""
AGAIN = timedelta(milliseconds=200)
"""Between two attempts to declare a consumer."""
_HEARTBEAT_STATUS = "100"
_NO_RESPONDERS = "503"
_GONE = "Consumer Deleted"

log = logging.getLogger(__name__)


class Puller:
    """Keeps a consumer's messages coming while there is room for them.

    ``declare`` creates the consumer if it is not there, and returns its name; it is called again
    when the server has lost the consumer. ``receive`` is called in the event loop with every
    delivery and must not block; `done` gives the room of one delivery back. At most ``capacity``
    deliveries are out at once. Two requests overlap: the second waits at the server while the
    first one is being served.
    """

    def __init__(
        self,
        *,
        connection: Connection,
        stream: str,
        declare: Callable[[], Awaitable[str]],
        capacity: int,
        receive: Callable[[Delivery], None],
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._declare = declare
        self._consumer = ""
        self._capacity = capacity
        self._receive = receive
        self._inbox = connection.client.new_inbox()
        self._numbers = itertools.count()
        self._requested: dict[str, int] = {}
        self._in_hand = 0
        self._heard = 0.0
        self._last = ""
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Declare the consumer and begin."""
        self._consumer = await self._declare()
        self._subscription = await self._connection.client.subscribe(
            f"{self._inbox}.*", cb=self._arrived, pending_bytes_limit=0
        )
        self._undo = self._connection.on_return(self._forget_requests)
        self._task = asyncio.create_task(self._run(), name=f"pull {self._consumer}")

    async def stop(self) -> None:
        """Ask for no more; deliveries that are out may still be settled."""
        if self._task is not None:
            await end([self._task])
            self._task = None
            self._undo()
            if not self._connection.client.is_closed:
                await self._subscription.unsubscribe()

    def waiting(self) -> int:
        """Return how many messages were behind the last delivery; 0 once the server is idle."""
        return origin(self._last).pending if self._last else 0

    def done(self) -> None:
        """Give the room of one delivery back."""
        self._in_hand -= 1
        if self._room() * 2 >= self._capacity or not self._requested:
            self._wake.set()

    def _room(self) -> int:
        return self._capacity - self._in_hand - sum(self._requested.values())

    def _forget_requests(self) -> None:
        self._requested.clear()
        self._wake.set()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            if not self._consumer:
                await self._declare_again()
            room = self._room()
            if room > 0 and len(self._requested) < 2:  # noqa: PLR2004 - two overlap
                await self._ask(max(1, room if self._requested else (room + 1) // 2))
                continue
            try:
                async with asyncio.timeout(HEARTBEAT.total_seconds()):
                    await self._wake.wait()
            except TimeoutError:
                self._watch()

    async def _declare_again(self) -> None:
        self._requested.clear()
        while not self._consumer:
            await self._connection.wait_up()
            try:
                self._consumer = await self._declare()
            except VisionmeshError as error:
                log.warning("%s: %s", self._stream, error)
                await asyncio.sleep(AGAIN.total_seconds())

    def _watch(self) -> None:
        silent = time.monotonic() - self._heard
        if self._requested and silent > SILENCE.total_seconds():
            log.warning("%s: silent for %.1f s, asking again", self._consumer, silent)
            self._requested.clear()

    async def _ask(self, count: int) -> None:
        await self._connection.wait_up()
        reply = f"{self._inbox}.{next(self._numbers)}"
        body = {
            "batch": count,
            "expires": int(EXPIRES.total_seconds() * 1e9),
            "idle_heartbeat": int(HEARTBEAT.total_seconds() * 1e9),
            "max_bytes": MAX_BYTES,
        }
        self._requested[reply] = count
        self._heard = time.monotonic()
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
        await self._connection.send(subject, to_json(body), reply=reply)

    async def _arrived(self, message: Msg) -> None:
        self._heard = time.monotonic()
        if not message.reply.startswith("$JS.ACK."):
            self._told(message)
            return
        left = self._requested.get(message.subject, 0) - 1
        if left > 0:
            self._requested[message.subject] = left
        else:
            self._requested.pop(message.subject, None)
            self._wake.set()
        self._in_hand += 1
        self._last = message.reply
        self._receive(Delivery(message))

    def _told(self, message: Msg) -> None:
        headers = message.headers or {}
        status = headers.get("Status")
        if status == _HEARTBEAT_STATUS:
            self._last = ""
            return
        if status == _NO_RESPONDERS or headers.get("Description") == _GONE:
            log.warning("%s has lost the consumer %s", self._stream, self._consumer)
            self._consumer = ""
        self._requested.pop(message.subject, None)
        self._wake.set()
