"""Files that clients upload."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from services.ingest.blobs import BROKEN_AFTER, KEPT, Blobs
from tests.polling import until
from visionmesh.errors import Code, Refused, Reject


async def parts(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


async def test_a_file_is_found_by_its_digest(tmp_path: Path) -> None:
    blobs = Blobs(directory=tmp_path / "blobs")
    content = os.urandom(3 << 20)
    assert blobs.find(digest(content)) is None
    file = await blobs.store(
        digest(content), parts(content[:7], content[7 : 2 << 20], content[2 << 20 :])
    )
    assert file.read_bytes() == content
    assert blobs.find(digest(content).upper().replace("SHA256", "sha256")) == file
    assert blobs.find(digest(content).replace(":", "-")) == file


async def test_a_file_with_another_digest_leaves_nothing(tmp_path: Path) -> None:
    blobs = Blobs(directory=tmp_path)
    with pytest.raises(Reject) as refused:
        await blobs.store(digest(b"this"), parts(b"that"))
    assert refused.value.code is Code.INVALID_REQUEST
    assert os.listdir(tmp_path) == []


async def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield os.urandom(2 << 20)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await Blobs(directory=tmp_path).store(digest(b"this"), broken())
    assert os.listdir(tmp_path) == []


async def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    blobs = Blobs(directory=tmp_path, max_blob=4)
    with pytest.raises(Reject) as refused:
        await blobs.store(digest(b"12345"), parts(b"123", b"45"))
    assert refused.value.code is Code.PAYLOAD_TOO_LARGE


def age(file: Path, by: timedelta) -> None:
    past = file.stat().st_mtime - by.total_seconds()
    os.utime(file, (past, past))


async def test_the_files_used_the_longest_ago_make_room(tmp_path: Path) -> None:
    blobs = Blobs(directory=tmp_path, max_blob=4, max_together=12)
    contents = [b"1111", b"2222", b"3333"]
    for number, content in enumerate(contents):
        age(await blobs.store(digest(content), parts(content)), (4 - number) * KEPT)
    assert blobs.find(digest(contents[0])), "used now"
    await blobs.store(digest(b"4444"), parts(b"4444"))
    assert [bool(blobs.find(digest(content))) for content in contents] == [True, False, True]


async def test_files_used_a_moment_ago_are_kept_and_an_upload_is_refused(tmp_path: Path) -> None:
    blobs = Blobs(directory=tmp_path, max_blob=4, max_together=12)
    contents = [b"1111", b"2222", b"3333"]
    files = [await blobs.store(digest(content), parts(content)) for content in contents]
    with pytest.raises(Refused) as refused:
        await blobs.store(digest(b"4"), parts(b"4"), nbytes=1)
    assert refused.value.code is Code.MESH_FULL
    assert sorted(os.listdir(tmp_path)) == sorted(file.name for file in files)


class Uploads:
    """Uploads to two workers in turn that share a folder; they end when they are let go on."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._workers = [Blobs(directory=directory, max_blob=4, max_together=12) for _ in range(2)]
        self._going_on = asyncio.Event()
        self._tasks: list[asyncio.Task[Path]] = []
        self._admitted = 0

    async def begin(self, contents: list[bytes], *, nbytes: int | None = None) -> None:
        for number, content in enumerate(contents):
            worker = self._workers[number % 2]
            storing = worker.store(digest(content), self._slow(content), nbytes=nbytes)
            self._tasks.append(asyncio.create_task(storing))
        await until(self._begun)

    async def finish(self) -> list[Path]:
        self._going_on.set()
        return await asyncio.gather(*self._tasks)

    def partial(self) -> list[Path]:
        return list(self._directory.glob("*.part"))

    async def _slow(self, content: bytes) -> AsyncIterator[bytes]:
        self._admitted += 1  # whoever reads on has found room
        yield content[:1]
        await self._going_on.wait()
        yield content[1:]

    async def _begun(self) -> bool:
        return self._admitted == len(self._tasks)


async def test_uploads_whose_length_is_not_known_count_as_the_largest(tmp_path: Path) -> None:
    other = Blobs(directory=tmp_path, max_blob=4, max_together=12)
    old = await other.store(digest(b"0000"), parts(b"0000"))
    age(old, 2 * KEPT)
    uploads = Uploads(tmp_path)
    contents = [b"1", b"22", b"333"]
    await uploads.begin(contents)
    with pytest.raises(Refused) as refused:
        await other.store(digest(b"4444"), parts(b"4444"))
    assert refused.value.code is Code.MESH_FULL
    files = await uploads.finish()
    assert [file.read_bytes() for file in files] == contents
    assert not old.exists()
    assert sorted(os.listdir(tmp_path)) == sorted(file.name for file in files)


async def test_uploads_whose_length_is_known_count_as_no_more(tmp_path: Path) -> None:
    other = Blobs(directory=tmp_path, max_blob=4, max_together=12)
    old = await other.store(digest(b"0000"), parts(b"0000"))
    age(old, 2 * KEPT)
    uploads = Uploads(tmp_path)
    contents = [b"11", b"22", b"33", b"44"]
    await uploads.begin(contents, nbytes=2)
    files = await uploads.finish()
    assert [file.read_bytes() for file in files] == contents
    assert old.read_bytes() == b"0000"


async def test_a_file_that_is_there_is_read_no_further_than_files_are_long() -> None:
    blobs = Blobs(directory=Path("nowhere"), max_blob=4)
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b"1"

    await blobs.skip(parts(b"12", b"34"))
    with pytest.raises(Reject) as refused:
        await blobs.skip(endless())
    assert (refused.value.code, taken) == (Code.PAYLOAD_TOO_LARGE, 5)


async def test_uploads_of_processes_that_are_gone_are_removed(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path)
    await uploads.begin([b"slow"])
    (slow,) = uploads.partial()
    age(slow, 2 * BROKEN_AFTER)
    old, young = tmp_path / f"{'0' * 64}.a.part", tmp_path / f"{'0' * 64}.b.part"
    for file in (old, young):
        file.write_bytes(b"half")
    age(old, 2 * BROKEN_AFTER)
    await Blobs(directory=tmp_path).store(digest(b"this"), parts(b"this"))
    assert not old.exists()
    assert young.exists()
    assert [file.read_bytes() for file in await uploads.finish()] == [b"slow"]


@pytest.mark.parametrize("begun", [False, True])
def test_an_upload_that_is_cancelled_leaves_nothing_whatever_its_thread_does_then(
    tmp_path: Path, begun: bool
) -> None:
    held = threading.Event()

    async def cancelled() -> None:
        only = ThreadPoolExecutor(max_workers=1)
        asyncio.get_running_loop().set_default_executor(only)
        writing = asyncio.Event()

        async def content() -> AsyncIterator[bytes]:
            only.submit(held.wait)
            writing.set()
            yield os.urandom(2 << 20)

        if not begun:
            only.submit(held.wait)
        storing = asyncio.create_task(Blobs(directory=tmp_path).store(digest(b""), content()))
        await (writing.wait() if begun else asyncio.sleep(0))
        storing.cancel()
        await asyncio.wait((storing,))
        assert storing.cancelled()
        held.set()

    asyncio.run(cancelled())  # which also waits for the threads
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "text", ["", "sha256:", "sha256:0", f"md5:{'0' * 64}", f"sha256:{'g' * 64}"]
)
def test_what_is_no_digest_is_no_path(tmp_path: Path, text: str) -> None:
    with pytest.raises(Reject):
        Blobs(directory=tmp_path).find(text)
