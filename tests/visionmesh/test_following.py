"""What is stored is noted before the start is over, and what ends that is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.polling import until
from visionmesh.errors import Fatal
from visionmesh.following import Following


class Store:
    """Yields what is put in; an error there is raised."""

    def __init__(self, *stored: int | Exception | None) -> None:
        self.changes: asyncio.Queue[int | Exception | None] = asyncio.Queue()
        self.noted: list[int] = []
        self.failures: list[Fatal] = []
        for change in stored:
            self.changes.put_nowait(change)
        self.following = Following(
            what="the numbers", changes=self.watch, note=self.note, fail=self.failures.append
        )

    async def watch(self) -> AsyncIterator[int | None]:
        while True:
            change = await self.changes.get()
            if isinstance(change, Exception):
                raise change
            yield change

    async def note(self, change: int) -> None:
        self.noted.append(change)


async def test_it_has_begun_when_everything_stored_is_noted_and_goes_on() -> None:
    store = Store(1, 2, None)
    assert not store.following.complete
    await store.following.start()
    assert store.following.complete
    assert store.noted == [1, 2]
    store.changes.put_nowait(3)

    async def heard() -> bool:
        return store.noted == [1, 2, 3]

    await until(heard)
    await store.following.stop()
    assert store.failures == []


async def test_who_cannot_begin_is_told_why() -> None:
    store = Store(1, ValueError("no number"))
    with pytest.raises(ValueError, match="no number"):
        await store.following.start()
    assert not store.following.complete


async def test_an_end_without_a_wish_is_a_failure() -> None:
    store = Store(None)
    await store.following.start()
    store.changes.put_nowait(ValueError("no number"))

    async def failed() -> bool:
        return bool(store.failures)

    await until(failed)
    assert store.failures[0].message == "The numbers cannot be followed any more: no number"
    await store.following.stop()
