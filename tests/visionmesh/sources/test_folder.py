"""A folder that is filled while it is watched."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from visionmesh.sources import folder
from visionmesh.sources.folder import Arrival, Folder


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "POLL", timedelta(milliseconds=20))


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


@pytest.fixture
async def arrivals(inbox: Path) -> AsyncIterator[AsyncGenerator[Arrival, None]]:
    watched = Folder(inbox).arrivals()
    yield watched
    await watched.aclose()


async def first(arrivals: AsyncGenerator[Arrival, None], number: int) -> list[Path]:
    async with asyncio.timeout(10):
        return [(await anext(arrivals)).path for _ in range(number)]


async def test_tells_what_is_there_in_its_order_and_what_comes(
    inbox: Path, arrivals: AsyncGenerator[Arrival, None]
) -> None:
    (inbox / "day").mkdir()
    for age, name in enumerate(["day/c.png", "b.JPG", "a.bmp"]):
        (inbox / name).write_bytes(b"image")
        os.utime(inbox / name, ns=(0, 10**18 + age))
    for other in ("notes.txt", ".hidden.jpg", "empty.jpg"):
        (inbox / other).write_bytes(b"" if other == "empty.jpg" else b"x")
    names = ["day/c.png", "b.JPG", "a.bmp"]
    assert await first(arrivals, 3) == [inbox / name for name in names]
    (inbox / "new.webp").write_bytes(b"image")
    assert await first(arrivals, 1) == [inbox / "new.webp"]


async def test_waits_until_a_file_is_written(
    inbox: Path, arrivals: AsyncGenerator[Arrival, None]
) -> None:
    (inbox / "other.jpg").write_bytes(b"complete")
    growing = inbox / "growing.jpg"

    async def write() -> None:
        with growing.open("wb", buffering=0) as file:
            for _ in range(20):
                file.write(b"part")
                await asyncio.sleep(0.01)  # a slow writer

    writing = asyncio.create_task(write())
    found = await first(arrivals, 2)
    assert writing.done()
    assert found == [inbox / "other.jpg", growing]


async def test_a_file_that_is_renamed_is_told_once(
    inbox: Path, arrivals: AsyncGenerator[Arrival, None]
) -> None:
    (inbox / "part.tmp").write_bytes(b"image")
    (inbox / "part.tmp").rename(inbox / "a.jpg")
    assert await first(arrivals, 1) == [inbox / "a.jpg"]
    (inbox / "a.jpg").rename(inbox / "renamed.jpg")
    (inbox / "b.jpg").write_bytes(b"another")
    assert await first(arrivals, 1) == [inbox / "b.jpg"]


async def test_a_file_that_is_written_anew_is_told_again_under_another_id(
    inbox: Path, arrivals: AsyncGenerator[Arrival, None]
) -> None:
    async with asyncio.timeout(10):
        (inbox / "a.jpg").write_bytes(b"image")
        one = await anext(arrivals)
        (inbox / "a.jpg").write_bytes(b"another image")
        other = await anext(arrivals)
        again = Folder(inbox).arrivals()
        told = await anext(again)
        await again.aclose()
    assert one.path == other.path
    assert one.id != other.id
    assert told == other


async def test_moves_away_what_is_done_and_overwrites_nothing(inbox: Path) -> None:
    done = inbox / "done"
    (done / "day").mkdir(parents=True)
    (done / "day" / "a.jpg").write_bytes(b"earlier")
    (inbox / "day").mkdir()
    (inbox / "day" / "a.jpg").write_bytes(b"image")
    watched = Folder(inbox, move_to=done)
    arrivals = watched.arrivals()
    async with asyncio.timeout(10):
        arrival = await anext(arrivals)
        await watched.done(arrival)
        (inbox / "b.jpg").write_bytes(b"another")
        assert (await anext(arrivals)).path == inbox / "b.jpg"
    await arrivals.aclose()
    assert not arrival.path.exists()
    assert (done / "day" / "a.jpg").read_bytes() == b"earlier"
    assert (done / "day" / "a-2.jpg").read_bytes() == b"image"
