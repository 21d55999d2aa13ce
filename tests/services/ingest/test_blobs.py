"""Files that clients upload."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.ingest.blobs import BROKEN_AFTER, Blobs
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


async def test_the_files_used_the_longest_ago_make_room(tmp_path: Path) -> None:
    blobs = Blobs(directory=tmp_path, max_blob=4, max_together=12)
    contents = [b"1111", b"2222", b"3333"]
    for age, content in enumerate(contents):
        file = await blobs.store(digest(content), parts(content))
        os.utime(file, (100 + age, 100 + age))
    assert blobs.find(digest(contents[0])), "used now"
    await blobs.store(digest(b"4444"), parts(b"4444"))
    assert [bool(blobs.find(digest(content))) for content in contents] == [True, False, True]


async def test_uploads_that_go_on_count_as_whole_files(tmp_path: Path) -> None:
    blobs, other = (Blobs(directory=tmp_path, max_blob=4, max_together=12) for _ in range(2))
    old = await blobs.store(digest(b"0000"), parts(b"0000"))
    going_on = asyncio.Event()

    async def slow(content: bytes) -> AsyncIterator[bytes]:
        yield content[:1]
        await going_on.wait()
        yield content[1:]

    contents = [b"1111", b"2222", b"3333"]
    uploads = [
        asyncio.create_task(worker.store(digest(content), slow(content)))
        for worker, content in zip((blobs, other, blobs), contents, strict=True)
    ]

    async def begun() -> bool:
        return sum(name.endswith(".part") for name in os.listdir(tmp_path)) == len(uploads)

    await until(begun)
    with pytest.raises(Refused) as refused:
        await other.store(digest(b"4444"), parts(b"4444"))
    assert refused.value.code is Code.MESH_FULL
    going_on.set()
    files = await asyncio.gather(*uploads)
    assert [file.read_bytes() for file in files] == contents
    assert not old.exists()
    assert sorted(os.listdir(tmp_path)) == sorted(file.name for file in files)


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
    old, young = tmp_path / f"{'0' * 64}.a.part", tmp_path / f"{'0' * 64}.b.part"
    for file in (old, young):
        file.write_bytes(b"half")
    past = old.stat().st_mtime - 2 * BROKEN_AFTER.total_seconds()
    os.utime(old, (past, past))
    await Blobs(directory=tmp_path).store(digest(b"this"), parts(b"this"))
    assert not old.exists()
    assert young.exists()


@pytest.mark.parametrize(
    "text", ["", "sha256:", "sha256:0", f"md5:{'0' * 64}", f"sha256:{'g' * 64}"]
)
def test_what_is_no_digest_is_no_path(tmp_path: Path, text: str) -> None:
    with pytest.raises(Reject):
        Blobs(directory=tmp_path).find(text)
