from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import nats
import psutil
import pytest
from nats.aio.client import Client

from tests.polling import until
from visionmesh.models.artifacts import ArtifactStore, file_sha256

MEBIBYTE = 1 << 20


@pytest.fixture
async def nc(nats_url: str) -> AsyncIterator[Client]:
    nc = await nats.connect(nats_url)
    yield nc
    await nc.close()


def noise(file: Path, size: int) -> str:
    """Write ``size`` random bytes; return their SHA-256."""
    data = os.urandom(size)
    file.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


async def test_a_large_file_travels_in_bounded_memory(nc: Client, tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:  # sparse: it takes no room on the disk
        file.seek(300 * MEBIBYTE - 1)
        file.write(b"\1")
    store = ArtifactStore(nc)
    before = psutil.Process().memory_info().rss

    sha256 = await asyncio.to_thread(file_sha256, large)
    await store.put(sha256, large)
    fetched = await store.fetch(sha256, tmp_path / "cache")

    grown = psutil.Process().memory_info().rss - before
    assert grown < 40 * MEBIBYTE
    assert file_sha256(fetched) == sha256
    await store.delete(sha256)
    assert not await store.has(sha256)


async def stored_bytes(nc: Client) -> int:
    return int((await nc.jetstream().stream_info("OBJ_vm_artifacts")).state.bytes)


async def test_what_is_deleted_frees_its_space(nc: Client, tmp_path: Path) -> None:
    store = ArtifactStore(nc)
    await store.has("0" * 64)  # the store is made with its first use
    before = await stored_bytes(nc)
    sha256 = noise(tmp_path / "file", 5 * MEBIBYTE)
    await store.put(sha256, tmp_path / "file")
    assert await stored_bytes(nc) > before + 5 * MEBIBYTE
    await store.delete(sha256)
    assert await stored_bytes(nc) < before + MEBIBYTE // 64


async def test_an_upload_that_was_broken_off_is_removed(
    nc: Client, nats_url: str, tmp_path: Path
) -> None:
    sha256 = noise(tmp_path / "file", 40 * MEBIBYTE)
    store = ArtifactStore(nc)
    kept = noise(tmp_path / "kept", MEBIBYTE)
    await store.put(kept, tmp_path / "kept")
    await store.sweep(older_than=timedelta(0))
    before = await stored_bytes(nc)
    program = (
        "import asyncio, nats, pathlib, sys\n"
        "from visionmesh.models.artifacts import ArtifactStore\n"
        "async def main(url, sha256, file):\n"
        "    nc = await nats.connect(url)\n"
        "    await ArtifactStore(nc).put(sha256, pathlib.Path(file))\n"
        "asyncio.run(main(*sys.argv[1:]))\n"
    )
    uploading = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, nats_url, sha256, str(tmp_path / "file")
    )

    async def begun() -> bool:
        return await stored_bytes(nc) > before + MEBIBYTE

    await until(begun)
    uploading.kill()
    await uploading.wait()
    assert not await store.has(sha256)

    assert await store.sweep() == 0, "it may still go on"
    assert await store.sweep(older_than=timedelta(0)) == 1

    assert await stored_bytes(nc) == before
    assert await store.has(kept)
    await store.put(sha256, tmp_path / "file")
    assert await store.has(sha256)


async def test_an_object_that_has_lost_chunks_is_not_there(nc: Client, tmp_path: Path) -> None:
    sha256 = noise(tmp_path / "file", MEBIBYTE)
    store = ArtifactStore(nc)
    await store.put(sha256, tmp_path / "file")
    info = await (await nc.jetstream().object_store("vm_artifacts")).get_info(sha256)
    js = nc.jetstream()
    await js.purge_stream("OBJ_vm_artifacts", subject=f"$O.vm_artifacts.C.{info.nuid}", keep=2)
    assert not await store.has(sha256)
    await store.put(sha256, tmp_path / "file")
    fetched = await store.fetch(sha256, tmp_path / "cache")
    assert file_sha256(fetched) == sha256


async def test_two_processes_may_fetch_at_once(nc: Client, nats_url: str, tmp_path: Path) -> None:
    sha256 = noise(tmp_path / "file", 3 * MEBIBYTE + 17)
    store = ArtifactStore(nc)
    await store.put(sha256, tmp_path / "file")
    program = (
        "import asyncio, nats, pathlib, sys\n"
        "from visionmesh.models.artifacts import ArtifactStore\n"
        "async def main(url, sha256, cache):\n"
        "    nc = await nats.connect(url)\n"
        "    await ArtifactStore(nc).fetch(sha256, pathlib.Path(cache))\n"
        "    await nc.close()\n"
        "asyncio.run(main(*sys.argv[1:]))\n"
    )
    cache = tmp_path / "cache"
    command = [sys.executable, "-c", program, nats_url, sha256, str(cache)]

    codes = await asyncio.gather(
        *(asyncio.to_thread(subprocess.call, command, timeout=30) for _ in range(2))
    )

    assert codes == [0, 0]
    assert [file_sha256(file) for file in cache.iterdir()] == [sha256]


async def test_the_least_recently_used_files_give_way(nc: Client, tmp_path: Path) -> None:
    store, cache = ArtifactStore(nc), tmp_path / "cache"
    names = []
    for number in range(3):
        names.append(noise(tmp_path / "file", MEBIBYTE))
        await store.put(names[-1], tmp_path / "file")
        fetched = await store.fetch(names[-1], cache)
        os.utime(fetched, times=(number, number))
    await store.fetch(names[0], cache)

    newest = noise(tmp_path / "file", MEBIBYTE)
    await store.put(newest, tmp_path / "file")
    await store.fetch(newest, cache, limit=3 * MEBIBYTE)

    assert {file.stem for file in cache.iterdir()} == {names[0], names[2], newest}


async def test_what_a_dead_process_left_is_cleared_away(nc: Client, tmp_path: Path) -> None:
    store, cache = ArtifactStore(nc), tmp_path / "cache"
    cache.mkdir()
    old, fresh = cache / "old.partial", cache / "fresh.partial"
    for file in (old, fresh):
        file.touch()
    os.utime(old, times=(0, time.time() - 7200))
    sha256 = noise(tmp_path / "file", 10)
    await store.put(sha256, tmp_path / "file")

    fetched = await store.fetch(sha256, cache)

    assert set(cache.iterdir()) == {fresh, fetched}


async def test_an_empty_file_is_an_artefact_too(nc: Client, tmp_path: Path) -> None:
    sha256 = noise(tmp_path / "file", 0)
    store = ArtifactStore(nc)
    await store.put(sha256, tmp_path / "file")
    assert (await store.fetch(sha256, tmp_path / "cache")).read_bytes() == b""
