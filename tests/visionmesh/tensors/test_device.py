"""What a writer and a reader of a GPU's memory may rely on."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from datetime import timedelta

import numpy as np
import pytest

from tests.visionmesh.tensors.arenas import (
    HOUR,
    SHM,
    SLOT,
    SLOTS,
    lay,
    make_arena,
    open_arena,
    put,
)
from visionmesh.contracts import CudaLocation, InlineLocation, Reference, ShmLocation
from visionmesh.errors import Code, ConfigurationError, Miss, Reject, Retry
from visionmesh.gpu import Gpu
from visionmesh.gpu.gpu import GpuMemoryError
from visionmesh.tensors import DeviceArena, DeviceReader, Reader, ShmReader, reap


@pytest.fixture
def arena(gpu: Gpu, prefix: str) -> Iterator[DeviceArena]:
    with open_arena(gpu, prefix + "a") as arena:
        yield arena


@pytest.fixture
def reader() -> DeviceReader:
    return DeviceReader(directory=SHM, on_refused=lambda uuid, why: pytest.fail(why))


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


def test_where_the_kernel_has_no_locks_that_tell_memory_cannot_be_shared(
    gpu: Gpu, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("visionmesh.tensors.slab.fcntl.fcntl", refuse)
    with pytest.raises(ConfigurationError, match="locks"):
        open_arena(gpu, prefix + "a")


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
