"""Who follows a bucket hears of every change soon, in whatever order a server does its work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from nats.js.api import RawStreamMsg

from visionmesh.bus import Connection
from visionmesh.bus.bucket import Bucket

NAME = "followed"


class Busy(Bucket):
    """A bucket on a server that says it has nothing new when it has just announced a change."""

    unstored = 0
    """How often it says so of the next change."""

    async def _next(self, sequence: int) -> RawStreamMsg | None:
        message = await super()._next(sequence)
        if message is not None and self.unstored:
            self.unstored -= 1
            return None
        return message


@pytest.fixture
async def bucket(connection: Connection) -> AsyncIterator[Busy]:
    yield Busy(connection.client, NAME)
    await connection.client.jetstream().delete_key_value(NAME)


@pytest.mark.parametrize("unstored", [0, 1, 3])
async def test_a_change_that_is_announced_before_it_is_stored_is_heard_at_once(
    bucket: Busy, unstored: int
) -> None:
    async with asyncio.timeout(10):
        changes = bucket.watch()
        assert await anext(changes) is None
        records = await bucket.open()
        for value in (b"one", b"two"):
            bucket.unstored = unstored
            next_change = asyncio.ensure_future(anext(changes))
            sequence = await records.put("key", value)
            async with asyncio.timeout(1):
                change = await next_change
            assert change is not None
            assert (change.seq, change.data) == (sequence, value)
        await changes.aclose()
