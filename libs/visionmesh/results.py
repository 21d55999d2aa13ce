"""Reading the results that a mesh keeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta

from nats.aio.msg import Msg

from visionmesh import subjects
from visionmesh.bus import Connection, Follower
from visionmesh.bus.api import stored_message
from visionmesh.contracts import Result
from visionmesh.errors import Retry
from visionmesh.ordered import Ordered

LOOK_EVERY = timedelta(seconds=5)
"""For a result that a lost connection may have swallowed."""


class ResultReader:
    """Reads results for one caller of `Mesh.results`, which says what the parameters mean."""

    def __init__(
        self,
        connection: Connection,
        *,
        model: str | None,
        source: str | None,
        since: datetime | None,
        after: int | None,
        ordered: bool,
    ) -> None:
        if since is not None and after is not None:
            raise ValueError("Name either `since` or `after`.")
        model = subjects.require_token("model", model) if model is not None else "*"
        source = subjects.require_token("source", source) if source is not None else "*"
        self._follower = Follower(
            connection=connection,
            stream=subjects.RESULTS,
            subject=f"vm.results.{model}.{source}.*",
            since=since,
            after=after,
        )
        self._ordered = None
        if ordered:
            self._ordered = Ordered(connection=connection, follower=self._follower)

    async def start(self) -> None:
        """Take the place: what is stored from now on will be read."""
        await self._follower.start()

    async def next(self) -> Result:
        """Return the next result, as soon as there is one."""
        if self._ordered is not None:
            delivery, sequence = await self._ordered.next()
        else:
            delivery = await self._follower.next()
            sequence = self._follower.position
        result = Result.model_validate_json(delivery.body)
        return result.model_copy(update={"sequence": sequence})

    async def stop(self) -> None:
        await self._follower.stop()


@asynccontextmanager
async def next_message(connection: Connection, subject: str) -> AsyncIterator[asyncio.Future[Msg]]:
    """Listen to ``subject`` inside the block; yield the future of the first message."""
    arrived: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()

    async def tell(message: Msg) -> None:
        if not arrived.done():
            arrived.set_result(message)

    subscription = await connection.client.subscribe(subject, cb=tell)
    try:
        yield arrived
    finally:
        if connection.client.is_connected:
            await subscription.unsubscribe()


async def arrival(connection: Connection, arrived: asyncio.Future[Msg], subject: str) -> Msg:
    """Return the message; a subscription may miss it while the connection is away."""
    while True:
        await asyncio.wait((arrived,), timeout=LOOK_EVERY.total_seconds())
        if arrived.done():
            return arrived.result()
        with suppress(Retry):
            client = connection.client
            stored = await stored_message(client, subjects.RESULTS, last_by_subj=subject)
            if stored is not None:
                return stored
