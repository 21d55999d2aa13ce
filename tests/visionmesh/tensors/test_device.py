"""What a writer and a reader of a GPU's memory may rely on."""

from __future__ import annotations

import asyncio
import mmap
import threading
from collections.abc import Iterator
from datetime import timedelta

import numpy as np
import pytest

from tests.visionmesh.tensors.arenas import HOUR, SHM, SLOT, SLOTS, make_arena, put
from visionmesh.contracts import CudaLocation, InlineLocation, Reference, ShmLocation
from visionmesh.errors import Code, ConfigurationError, Miss, Reject, Retry
from visionmesh.gpu import Gpu, SharedMemory
from visionmesh.gpu.copier import Copier
from visionmesh.gpu.gpu import GpuMemoryError
from visionmesh.tensors import DeviceArena, DeviceReader, Reader, ShmReader, reap
from visionmesh.tensors.slab import Slab, create_slab, remove_slab

Refused = list[tuple[str, str]]


def open_arena(gpu: Gpu, name: str, *, lease: timedelta = HOUR, slots: int = SLOTS) -> DeviceArena:
    return DeviceArena(
        gpu=gpu, directory=SHM, name=name, size=slots * SLOT, slot_bytes=SLOT, lease=lease
    )


def lay(arena: DeviceArena, payload: bytes) -> CudaLocation:
    slot = arena.reserve(len(payload))
    assert slot is not None
    Copier(arena.gpu).copy([(np.frombuffer(payload, np.uint8), slot.device)])
    return slot.commit()


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


@pytest.mark.parametrize("nbytes", [0, 1, SLOT - 1, SLOT, SLOT + 1, SLOTS * SLOT])
def test_a_payload_arrives_on_the_device_and_on_the_host(
    arena: DeviceArena, reader: DeviceReader, nbytes: int
) -> None:
    payload = bytes(i % 251 for i in range(nbytes))
    reading = reader.read(lay(arena, payload))
    assert (reading.device.shape, reading.device.dtype) == ((nbytes,), np.uint8)
    assert bytes(reading.view) == payload
    assert reading.view.readonly
    assert reading.view is reading.view
    reading.check()
    reading.release()
    assert arena.used_bytes == 0


def test_no_host_writes_to_a_slot(arena: DeviceArena) -> None:
    slot = arena.reserve(1)
    assert slot is not None
    with pytest.raises(TypeError):
        _ = slot.view


def test_nothing_can_be_read_before_the_commit(arena: DeviceArena, reader: DeviceReader) -> None:
    slot = arena.reserve(10)
    assert slot is not None
    early = CudaLocation(
        kind="cuda", arena=arena.name, slot=slot.first, generation=slot.generation, length=10
    )
    with pytest.raises(Miss):
        reader.read(early)
    assert slot.commit() == early
    assert reader.read(early).device.nbytes == 10


def test_a_release_frees_once_and_nobody_elses_room(
    arena: DeviceArena, reader: DeviceReader
) -> None:
    location = lay(arena, b"first")
    one, two = reader.read(location), reader.read(location)
    one.release()
    with pytest.raises(Miss):
        reader.read(location)
    again = lay(arena, b"other")
    assert again.slot == location.slot
    two.release()
    with pytest.raises(Miss):
        two.check()
    assert bytes(reader.read(again).view) == b"other"
    assert arena.used_bytes == SLOT


def test_leaving_the_block_without_a_commit_discards(arena: DeviceArena) -> None:
    slot = arena.reserve(10)
    assert slot is not None
    with slot:
        assert arena.used_bytes == SLOT
    assert arena.used_bytes == 0


def test_a_slot_given_away_under_a_slow_reader_is_noticed(
    gpu: Gpu, prefix: str, reader: DeviceReader
) -> None:
    with open_arena(gpu, prefix + "a", lease=timedelta(0)) as arena:
        reading = reader.read(lay(arena, b"a" * SLOTS * SLOT))
        assert arena.reclaimed == 0
        lay(arena, b"b" * SLOTS * SLOT)
        assert arena.reclaimed == 1
        assert set(reading.view) == set(b"b")
        with pytest.raises(Miss):
            reading.check()


async def test_a_full_arena_lets_wait_in_vain_and_refuses_what_can_never_fit(
    arena: DeviceArena,
) -> None:
    lay(arena, b"x" * SLOTS * SLOT)
    assert arena.reserve(1) is None
    with pytest.raises(Retry):
        await arena.acquire(1, timeout=timedelta(milliseconds=20))
    with pytest.raises(Reject) as caught:
        await arena.acquire(SLOTS * SLOT + 1, timeout=HOUR)
    assert caught.value.code is Code.PAYLOAD_TOO_LARGE


def test_references_to_a_closed_arena_miss_also_where_it_is_being_read(
    gpu: Gpu, prefix: str, reader: DeviceReader
) -> None:
    with open_arena(gpu, prefix + "a") as arena:
        location = lay(arena, b"gone")
        reading = reader.read(location)
        reading.check()
    with pytest.raises(Miss, match="died"):
        reading.check()
    with pytest.raises(Miss):
        reader.read(location)


def test_the_next_arena_of_a_name_is_another(gpu: Gpu, prefix: str, reader: DeviceReader) -> None:
    with open_arena(gpu, prefix + "a") as arena:
        old = lay(arena, b"old")
        reader.read(old)
    with open_arena(gpu, prefix + "a") as arena:
        new = lay(arena, b"new")
        assert bytes(reader.read(new).view) == b"new"
        with pytest.raises(Miss):
            reader.read(old)


@pytest.mark.parametrize(
    "change",
    [
        *({"slot": -1}, {"slot": SLOTS}, {"slot": 1}, {"generation": 0}, {"length": 1 << 40}),
        *({"length": -1}, {"arena": "visionmesh-test-nobody"}, {"arena": "../x"}, {"arena": ""}),
    ],
)
def test_a_reference_that_lies_misses(
    arena: DeviceArena, reader: DeviceReader, change: dict[str, int | str]
) -> None:
    location = lay(arena, b"true")
    with pytest.raises(Miss):
        reader.read(location.model_copy(update=change))


def test_a_reference_to_one_kind_of_memory_finds_nothing_in_the_other(
    gpu: Gpu, prefix: str, reader: DeviceReader
) -> None:
    with open_arena(gpu, prefix + "device") as arena, make_arena(prefix + "shm") as shared:
        on_device, on_host = lay(arena, b"device"), put(shared, b"shared")
        with pytest.raises(Miss):
            ShmReader(directory=SHM).read(ShmLocation(**on_device.model_dump(exclude={"kind"})))
        with pytest.raises(Miss):
            reader.read(CudaLocation(kind="cuda", **on_host.model_dump()))


def broken(name: str, elsewhere: bytes) -> tuple[Slab, CudaLocation]:
    """Return a slab that tells of memory which nobody can map, and where its payload is."""
    slab, _ = create_slab(SHM / name, slots=1, slot_bytes=mmap.PAGESIZE, elsewhere=elsewhere)
    slab.generations[0], slab.lengths[0] = 7, 5
    return slab, CudaLocation(kind="cuda", arena=name, slot=0, generation=7, length=5)


@pytest.mark.parametrize(
    "elsewhere", [b"?" * 64 + b"EMULATED-0", b"?" * 64 + b"GPU-of-another-host"]
)
def test_memory_that_cannot_be_mapped_misses_and_is_told_of_once(
    prefix: str, reader: DeviceReader, refused: Refused, elsewhere: bytes
) -> None:
    slab, location = broken(prefix + "a", elsewhere)
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
    slab, location = broken(prefix + "a", b"?" * 64 + gpu.info.uuid.encode())
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


def test_an_arena_that_the_device_has_no_memory_for_leaves_nothing(gpu: Gpu, prefix: str) -> None:
    before = gpu.free_bytes
    with pytest.raises(GpuMemoryError):
        open_arena(gpu, prefix + "a", slots=1 << 40)
    assert gpu.free_bytes == before


def test_memory_is_free_again_when_the_slab_cannot_be_made(gpu: Gpu, prefix: str) -> None:
    with open_arena(gpu, prefix + "a"):
        before = gpu.free_bytes
        with pytest.raises(ConfigurationError):
            open_arena(gpu, prefix + "a")
        assert gpu.free_bytes == before


def test_the_reaper_spares_the_living(gpu: Gpu, prefix: str, reader: DeviceReader) -> None:
    with open_arena(gpu, prefix + "a") as arena:
        location = lay(arena, b"here")
        assert reap(SHM, prefix=prefix) == 0
        assert bytes(reader.read(location).view) == b"here"


def test_a_location_stays_what_it_is_in_a_message() -> None:
    places = [
        ShmLocation(arena="a", slot=1, generation=2, length=3),
        CudaLocation(kind="cuda", arena="a", slot=1, generation=2, length=3),
        InlineLocation(offset=1, length=3),
    ]
    for place in places:
        reference = Reference(
            id="1", source="s", model="m", version=1, sha256="0" * 64, location=place
        )
        text = reference.model_dump_json(exclude_defaults=True)
        assert Reference.model_validate_json(text).location == place


def test_one_reader_resolves_it_beside_the_others(arena: DeviceArena) -> None:
    reading = Reader(directory=SHM).read(lay(arena, b"device"), memoryview(b""))
    assert reading.device is not None
    assert bytes(reading.view) == b"device"
