"""Frames of files and of streams, which come and go."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path

import pytest

from tests.polling import until
from tests.visionmesh.sources.conftest import Stream, number_of
from visionmesh.errors import Code, ConfigurationError
from visionmesh.sources import video
from visionmesh.sources.names import is_video, without_password
from visionmesh.sources.video import Video


@pytest.fixture(autouse=True)
def _soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "FIRST_PAUSE", timedelta(milliseconds=50))


async def numbers(source: Video) -> list[int]:
    async with aclosing(source.frames()) as frames:
        return [number_of(frame.pixels) async for frame in frames]


async def test_all_frames_of_a_file_come_however_slowly_they_are_taken(film: Path) -> None:
    source = Video(str(film))
    found = []
    async with aclosing(source.frames()) as frames:
        async for frame in frames:
            assert frame.pixels.shape == (48, 64, 3)
            found.append((frame.number, number_of(frame.pixels)))
            await asyncio.sleep(0.005)  # slower than they are read
    assert found == [(number, number) for number in range(20)]
    assert (source.dropped, source.is_live) == (0, False)


@pytest.mark.parametrize(("fps", "kept"), [(5, range(0, 20, 2)), (1, (0, 10)), (50, range(20))])
async def test_so_many_frames_of_each_second_of_a_file(film: Path, fps: float, kept: range) -> None:
    assert await numbers(Video(str(film), fps=fps)) == list(kept)


async def test_what_is_no_video_is_told(tmp_path: Path) -> None:
    file = tmp_path / "film.mp4"
    file.write_bytes(b"no video at all")
    with pytest.raises(ConfigurationError, match="cannot be opened") as caught:
        await numbers(Video(str(file)))
    assert caught.value.code is Code.UNSUPPORTED_FORMAT


async def test_the_newest_frame_of_a_stream_wins_and_the_others_are_counted(
    stream: Stream,
) -> None:
    source = Video(stream.url)
    async with aclosing(source.frames()) as frames:
        first = await anext(frames)

        async def some_are_dropped() -> bool:
            return source.dropped >= 5

        await until(some_are_dropped)
        second = await anext(frames)
    assert source.is_live
    assert second.number - first.number > 5
    assert number_of(second.pixels) == second.number % 24


async def test_a_stream_is_thinned_to_its_rate_and_that_drops_nothing(stream: Stream) -> None:
    source = Video(stream.url, fps=20)
    async with aclosing(source.frames()) as frames:
        await anext(frames)
        began = time.monotonic()
        for _ in range(5):
            await anext(frames)
    assert time.monotonic() - began >= 0.2
    assert source.dropped == 0


async def test_a_stream_that_dies_is_opened_again(stream: Stream) -> None:
    told: list[str] = []
    source = Video(stream.url, told=told.append)
    async with aclosing(source.frames()) as frames:
        await anext(frames)
        stream.die()

        async def tried_in_vain() -> bool:
            return stream.visits >= 3

        await until(tried_in_vain)
        before = source.dropped
        stream.lives.set()
        async with asyncio.timeout(10):
            while (await anext(frames)).number <= before + 1:
                pass
    assert "is away; it is tried again in 0.05 s." in told[0]
    assert "is away; it is tried again in 0.1 s." in told[1]


async def test_a_stream_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "ANSWERS_WITHIN", timedelta(milliseconds=200))
    visits = 0
    twice = asyncio.Event()

    async def keep_silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal visits
        visits += 1
        if visits == 2:
            twice.set()
        await over.wait()
        writer.close()

    over = asyncio.Event()
    server = await asyncio.start_server(keep_silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, aclosing(Video(f"rtsp://u:secret@127.0.0.1:{port}/x").frames()) as frames:
        waiting = asyncio.create_task(anext(frames))
        async with asyncio.timeout(10):
            await twice.wait()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        over.set()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("rtsp://user:p@ss@10.0.0.7/live?x=1", "rtsp://10.0.0.7/live?x=1"),
        ("rtsp://10.0.0.7/a@b", "rtsp://10.0.0.7/a@b"),
        ("film.mp4", "film.mp4"),
    ],
)
def test_no_password_is_shown(name: str, shown: str) -> None:
    assert without_password(name) == shown


def test_knows_a_video_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    assert all(map(is_video, ("rtsp://c", "0", "/dev/video2", "a.MP4", "b.mkv")))
    assert not any(map(is_video, ("a.jpg", "photos", str(tmp_path / "folder.mp4"))))
