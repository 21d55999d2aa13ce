"""Who asks for more room than there is waits, in turn and not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta

import pytest

from tests.visionmesh.tensors.arenas import SHM, SLOT, SLOTS, make_arena, put
from visionmesh.errors import Code, Reject, Retry
from visionmesh.tensors import ShmArena, ShmReader

SOON = timedelta(milliseconds=20)


@pytest.fixture
def arena(prefix: str) -> Iterator[ShmArena]:
    with make_arena(prefix + "a") as arena:
        yield arena


@pytest.fixture
def reader() -> ShmReader:
    return ShmReader(directory=SHM)


async def stalled(arena: ShmArena, times: int) -> None:
    async with asyncio.timeout(10):
        while arena.stalls < times:  # noqa: ASYNC110 - a counter tells nobody when it moves
            await asyncio.sleep(0)


async def test_waiting_ends_when_a_reader_makes_room(arena: ShmArena, reader: ShmReader) -> None:
    location = put(arena, b"x" * SLOTS * SLOT)
    waiting = asyncio.create_task(arena.acquire(SLOT, timeout=timedelta(seconds=10)))
    await stalled(arena, 1)
    reader.read(location).release()
    slot = await waiting
    assert len(slot.view) == SLOT


async def test_waiting_in_vain_is_to_be_retried(arena: ShmArena) -> None:
    put(arena, b"x" * SLOTS * SLOT)
    with pytest.raises(Retry):
        await arena.acquire(1, timeout=SOON)
    assert arena.stalls == 1


async def test_a_large_payload_is_not_starved_by_small_ones(
    arena: ShmArena, reader: ShmReader
) -> None:
    held = [put(arena, b"x") for _ in range(SLOTS)]
    large = asyncio.create_task(arena.acquire(SLOTS * SLOT, timeout=timedelta(seconds=10)))
    await stalled(arena, 1)
    reader.read(held[0]).release()
    small = asyncio.create_task(arena.acquire(1, timeout=timedelta(seconds=10)))
    await stalled(arena, 2)
    for location in held[1:]:
        reader.read(location).release()
    slot = await large
    assert not small.done()
    slot.discard()
    assert len((await small).view) == 1


async def test_a_cancelled_wait_takes_nothing(arena: ShmArena, reader: ShmReader) -> None:
    location = put(arena, b"x" * SLOTS * SLOT)
    waiting = asyncio.create_task(arena.acquire(SLOT, timeout=timedelta(seconds=10)))
    await stalled(arena, 1)
    waiting.cancel()
    await asyncio.wait([waiting])
    reader.read(location).release()
    assert arena.used_bytes == 0
    assert len((await arena.acquire(1, timeout=SOON)).view) == 1


async def test_what_can_never_fit_is_rejected(arena: ShmArena) -> None:
    with pytest.raises(Reject) as caught:
        await arena.acquire(SLOTS * SLOT + 1, timeout=SOON)
    assert caught.value.code is Code.PAYLOAD_TOO_LARGE
