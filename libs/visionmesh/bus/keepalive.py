"""What is in hand, kept from being delivered again."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

from visionmesh.bus.connection import Connection
from visionmesh.tasks import end

_IN_PROGRESS = b"+WPI"


class KeepAlive:
    """Says of each delivery in hand, every third of ``ack_wait``, that it is being worked on.

    Deliveries are named by their ack subjects. What has another name, such as a request that
    nobody delivers again, is only counted.
    """

    def __init__(self, *, connection: Connection, ack_wait: timedelta) -> None:
        self._connection = connection
        self._period = ack_wait.total_seconds() / 3
        self._said: dict[str, float] = {}
        """When (monotonic, in seconds) it was last said of each."""
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._said)

    def start(self) -> None:
        self._task = asyncio.create_task(self._say_again(), name="keep alive")

    async def stop(self) -> None:
        if self._task is not None:
            await end([self._task])

    def take(self, name: str, *, age: timedelta = timedelta(0)) -> None:
        """Keep alive what was delivered, or last kept alive by another worker, ``age`` ago."""
        self._said[name] = time.monotonic() - age.total_seconds()

    def drop(self, name: str) -> None:
        """Keep it alive no more; what was dropped already may be dropped again."""
        self._said.pop(name, None)

    async def _say_again(self) -> None:
        while True:
            # What was old already when it was taken cannot wait for a whole period.
            await asyncio.sleep(self._period / 4)
            now = time.monotonic()
            for name, said in list(self._said.items()):
                if name.startswith("$JS.ACK.") and now - said >= self._period:
                    self._said[name] = now
                    await self._connection.send(name, _IN_PROGRESS)
