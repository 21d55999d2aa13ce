"""Requests whose callers have gone: nobody works on them any more."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from visionmesh.bus import Connection
from visionmesh.subjects import CANCEL

MOST = 4096
REMEMBERED = timedelta(seconds=30)
"""Longer than a request may wait; and no more than `MOST`, so that nothing grows."""


class Cancelled:
    """The reply subjects of requests that were given up, by this worker or any other."""

    def __init__(self, *, connection: Connection) -> None:
        self._connection = connection
        self._subscription: Subscription | None = None
        self._given_up: OrderedDict[str, float] = OrderedDict()
        self._listeners: list[Callable[[str], None]] = []

    async def start(self) -> None:
        self._subscription = await self._connection.client.subscribe(CANCEL, cb=self._hear)

    async def stop(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None and not self._connection.client.is_closed:
            await subscription.unsubscribe()

    def __contains__(self, reply: str | None) -> bool:
        return reply in self._given_up

    def on_cancel(self, listener: Callable[[str], None]) -> None:
        """Have ``listener`` called with the reply subject of each request that is given up."""
        self._listeners.append(listener)

    async def _hear(self, message: Msg) -> None:
        now = time.monotonic()
        reply = message.data.decode()
        self._given_up[reply] = now
        while len(self._given_up) > MOST or self._eldest() < now - REMEMBERED.total_seconds():
            self._given_up.popitem(last=False)
        for listener in self._listeners:
            listener(reply)

    def _eldest(self) -> float:
        return next(iter(self._given_up.values()))


async def give_up(connection: Connection, reply: str) -> None:
    """Tell every worker that nobody waits at ``reply`` any more."""
    await connection.send(CANCEL, reply.encode())
