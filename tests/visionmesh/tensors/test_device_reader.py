"""When the memory of an arena is mapped, when not, and for how long."""

from __future__ import annotations

import asyncio
import mmap
import threading
from collections.abc import Iterator
from weakref import WeakSet

import pytest

from tests.visionmesh.tensors.arenas import SHM, SLOT, lay, open_arena
from visionmesh.contracts import CudaLocation
from visionmesh.errors import Code, Miss, Retry
from visionmesh.gpu import Gpu, SharedMemory
from visionmesh.gpu.gpu import GpuMemoryError
from visionmesh.tensors import DeviceArena, DeviceReader
from visionmesh.tensors.slab import Slab, create_slab, remove_slab

Refused = list[tuple[str, str]]


@pytest.fixture
def arena(gpu: Gpu, prefix: str) -> Iterator[DeviceArena]:
    with open_arena(gpu, prefix + "a") as arena:
        yield arena


@pytest.fixture
def refused() -> Refused:
    return []


@pytest.fixture
def reader(refused: Refused) -> DeviceReader:
    return DeviceReader(directory=SHM, on_refused=lambda *told: refused.append(told))


def lone(name: str, elsewhere: bytes) -> tuple[Slab, CudaLocation]:
    """Return a slab that tells ``elsewhere`` of its memory, and where its payload is."""
    slab = create_slab(SHM / name, slots=1, slot_bytes=mmap.PAGESIZE, elsewhere=elsewhere)
    slab.generations[0], slab.lengths[0] = 7, 5
    return slab, CudaLocation(kind="cuda", arena=name, slot=0, generation=7, length=5)


@pytest.mark.parametrize(
    "elsewhere", [b"?" * 64 + b"EMULATED-0", b"?" * 64 + b"GPU-of-another-host"]
)
def test_memory_that_cannot_be_mapped_misses_and_is_told_of_once(
    prefix: str, reader: DeviceReader, refused: Refused, elsewhere: bytes
) -> None:
    slab, location = lone(prefix + "a", elsewhere)
    for _ in range(3):
        with pytest.raises(Miss, match="cannot be mapped"):
            reader.read(location)
        # Its writer need not wait for the lease to be over.
        assert slab.released[0] == 7
        slab.released[0] = 0
    ((uuid, why),) = refused
    assert uuid == elsewhere[64:].decode()
    assert why
    remove_slab(SHM / f"{prefix}a", slab)


async def test_memory_that_is_gone_before_its_owner_is_dead_is_no_reason_to_refuse_the_device(
    gpu: Gpu, prefix: str, reader: DeviceReader, refused: Refused
) -> None:
    slab, location = lone(prefix + "a", b"?" * 64 + gpu.info.uuid.encode())
    reading = asyncio.create_task(reader.prepare(location))
    # Most of a process has ended, and the rest does a little later.
    asyncio.get_running_loop().call_later(0.1, remove_slab, SHM / f"{prefix}a", slab)
    with pytest.raises(Miss, match="cannot be mapped"):
        await reading
    assert not refused
    with open_arena(gpu, prefix + "b") as arena:
        assert bytes(reader.read(lay(arena, b"next")).view) == b"next"


def test_memory_that_cannot_be_mapped_for_lack_of_memory_is_mapped_later(
    arena: DeviceArena, reader: DeviceReader, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise GpuMemoryError("there is none left")

    with monkeypatch.context() as patch:
        patch.setattr(type(arena.gpu), "open_shared", refuse)
        with pytest.raises(Retry, match="none left") as caught:
            reader.read(lay(arena, b"here"))
    # Waiting is not counted as trying.
    assert caught.value.code is Code.MESH_FULL
    assert caught.value.delay
    assert arena.used_bytes == 0
    assert not refused
    assert bytes(reader.read(lay(arena, b"here")).view) == b"here"


async def test_the_first_mapping_of_an_arena_is_made_once_and_not_in_the_event_loop(
    arena: DeviceArena, reader: DeviceReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    open_shared = type(arena.gpu).open_shared

    def note(gpu: Gpu, handle: bytes, nbytes: int) -> SharedMemory:
        threads.append(threading.get_ident())
        return open_shared(gpu, handle, nbytes)

    monkeypatch.setattr(type(arena.gpu), "open_shared", note)
    locations = [lay(arena, b"first"), lay(arena, b"other")]
    await asyncio.gather(*map(reader.prepare, locations))
    for location in locations:
        await reader.prepare(location)
        reader.read(location).release()
    (thread,) = threads
    assert thread != threading.get_ident()


@pytest.mark.parametrize("reaped", [False, True])
def test_the_memory_of_the_dead_is_let_go_of_without_a_reference_to_anything_else(
    gpu: Gpu, prefix: str, reader: DeviceReader, monkeypatch: pytest.MonkeyPatch, reaped: bool
) -> None:
    mapped: WeakSet[SharedMemory] = WeakSet()
    open_shared = type(gpu).open_shared

    def note(gpu: Gpu, handle: bytes, nbytes: int) -> SharedMemory:
        memory = open_shared(gpu, handle, nbytes)
        mapped.add(memory)
        return memory

    monkeypatch.setattr(type(gpu), "open_shared", note)
    path, own = SHM / f"{prefix}a", gpu.share(SLOT)
    slab, location = lone(path.name, own.handle + gpu.info.uuid.encode())
    reading = reader.read(location)
    reader.forget_gone()
    assert len(mapped) == 1
    kept = path.with_name(f"{prefix}kept")
    kept.hardlink_to(path)
    remove_slab(path, slab)
    if reaped:
        kept.unlink()
    else:
        kept.rename(path)
    reader.forget_gone()
    assert len(mapped) == 1, "somebody reads there"
    del reading
    assert not mapped
    path.unlink(missing_ok=True)
