"""Reading a stream in order and without a gap, through lost connections and restarted servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, overload

from visionmesh.bus import api
from visionmesh.bus.connection import Connection
from visionmesh.bus.delivery import Delivery, origin
from visionmesh.bus.puller import Puller

WINDOW = 256
IDLE = timedelta(minutes=1)
"""The server removes the consumer of a reader that has not asked for so long."""


class Follower:
    """One reader's place in a stream, kept here: the server may forget its consumer at any time.

    It begins behind the message ``after``, or else with those stored ``since`` then, or else now.
    """

    def __init__(
        self,
        *,
        connection: Connection,
        stream: str,
        subject: str,
        since: datetime | None = None,
        after: int | None = None,
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._subject = subject
        self._since = since
        self._next = after + 1 if after is not None else 0
        """Sequence number in the stream; 0: wherever ``since`` is."""
        self._arrived: asyncio.Queue[Delivery] = asyncio.Queue()
        self._puller = Puller(
            connection=connection,
            stream=stream,
            declare=self._declare,
            capacity=WINDOW,
            receive=self._arrived.put_nowait,
        )

    async def start(self) -> None:
        """Take the place in the stream: what is stored from now on will be delivered."""
        if self._since is None or self._next:
            answer = await api.request(self._connection.client, f"STREAM.INFO.{self._stream}")
            end = answer["state"]["last_seq"] + 1
            # A place beyond the end is one in a stream that is no more: all of this one is new.
            self._next = (self._next if self._next <= end else 1) or end
        await self._puller.start()

    async def stop(self) -> None:
        await self._puller.stop()

    @property
    def position(self) -> int:
        """Up to where the stream was read: the sequence number of the last delivery."""
        return self._next - 1

    @overload
    async def next(self) -> Delivery: ...

    @overload
    async def next(self, *, within: timedelta | None) -> Delivery | None: ...

    async def next(self, *, within: timedelta | None = None) -> Delivery | None:
        """Return the next message, or `None` if none comes in that time."""
        limit = within.total_seconds() if within is not None else None
        while True:
            try:
                async with asyncio.timeout(limit):
                    delivery = await self._arrived.get()
            except TimeoutError:
                return None
            self._puller.done()
            sequence = origin(delivery.ack).sequence
            if sequence >= self._next:
                self._next = sequence + 1
                return delivery

    async def __aiter__(self) -> AsyncIterator[Delivery]:
        while True:
            yield await self.next()

    async def _declare(self) -> str:
        config: dict[str, Any] = {
            "filter_subject": self._subject,
            "ack_policy": "none",
            "mem_storage": True,
            "inactive_threshold": int(IDLE.total_seconds() * 1e9),
        }
        if self._next:
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": self._next}
        else:
            since = self._since or datetime.now(UTC)
            config |= {
                "deliver_policy": "by_start_time",
                "opt_start_time": since.astimezone(UTC).isoformat(),
            }
        answer = await api.request(
            self._connection.client,
            f"CONSUMER.CREATE.{self._stream}",
            {"stream_name": self._stream, "config": config},
        )
        return str(answer["name"])
