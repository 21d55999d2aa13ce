"""What a writer and a reader of one arena may rely on."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.visionmesh.tensors.arenas import HOUR, SHM, SLOT, SLOTS, make_arena, put
from visionmesh.contracts import ShmLocation
from visionmesh.errors import ConfigurationError, Miss
from visionmesh.tensors import Reader, ShmArena, ShmReader, reap


@pytest.fixture
def arena(prefix: str) -> Iterator[ShmArena]:
    with make_arena(prefix + "a") as arena:
        yield arena


@pytest.fixture
def reader() -> ShmReader:
    return ShmReader(directory=SHM)


@pytest.mark.parametrize("nbytes", [0, 1, SLOT - 1, SLOT, SLOT + 1, SLOTS * SLOT])
def test_a_payload_arrives_as_it_was_written(
    arena: ShmArena, reader: ShmReader, nbytes: int
) -> None:
    payload = bytes(i % 251 for i in range(nbytes))
    reading = reader.read(put(arena, payload))
    assert bytes(reading.view) == payload
    assert reading.view.readonly
    reading.check()
    reading.release()
    assert arena.used_bytes == 0


def test_nothing_can_be_read_before_the_commit(arena: ShmArena, reader: ShmReader) -> None:
    slot = arena.reserve(10)
    assert slot is not None
    early = ShmLocation(arena=arena.name, slot=slot.first, generation=slot.generation, length=10)
    with pytest.raises(Miss):
        reader.read(early)
    assert slot.commit() == early
    assert len(reader.read(early).view) == 10


def test_a_released_payload_misses(arena: ShmArena, reader: ShmReader) -> None:
    location = put(arena, b"once")
    reader.read(location).release()
    with pytest.raises(Miss):
        reader.read(location)


def test_a_second_release_frees_nobody_elses_room(arena: ShmArena, reader: ShmReader) -> None:
    location = put(arena, b"first")
    one, two = reader.read(location), reader.read(location)
    one.release()
    again = put(arena, b"other")
    assert again.slot == location.slot
    two.release()
    with pytest.raises(Miss):
        two.check()
    assert bytes(reader.read(again).view) == b"other"
    assert arena.used_bytes == SLOT


def test_a_discarded_slot_is_free_and_can_never_be_read(arena: ShmArena, reader: ShmReader) -> None:
    slot = arena.reserve(SLOTS * SLOT)
    assert slot is not None
    slot.discard()
    late = slot.commit()
    with pytest.raises(Miss):
        reader.read(late)
    assert arena.used_bytes == 0
    assert arena.reserve(SLOTS * SLOT) is not None


def test_leaving_the_block_without_a_commit_discards(arena: ShmArena) -> None:
    slot = arena.reserve(10)
    assert slot is not None
    with pytest.raises(ZeroDivisionError), slot:
        1 / 0  # noqa: B018
    assert arena.used_bytes == 0


def test_leaving_the_block_after_a_commit_keeps_the_payload(
    arena: ShmArena, reader: ShmReader
) -> None:
    slot = arena.reserve(4)
    assert slot is not None
    with slot:
        slot.view[:] = b"kept"
        location = slot.commit()
    assert bytes(reader.read(location).view) == b"kept"


def test_a_lease_that_is_over_ends_only_when_the_room_is_needed(
    prefix: str, reader: ShmReader
) -> None:
    with make_arena(prefix + "a", lease=timedelta(0)) as arena:
        old = [put(arena, bytes([i]) * SLOT) for i in range(SLOTS)]
        assert [bytes(reader.read(location).view[:1])[0] for location in old] == list(range(SLOTS))
        assert arena.reclaimed == 0
        put(arena, b"new")
        assert arena.reclaimed == 1
        with pytest.raises(Miss):
            reader.read(old[0])
        assert bytes(reader.read(old[1]).view[:1]) == b"\x01"


def test_a_lease_that_lasts_is_kept_under_pressure(arena: ShmArena, reader: ShmReader) -> None:
    held = [put(arena, bytes([i])) for i in range(SLOTS)]
    assert arena.reserve(1) is None
    assert [bytes(reader.read(location).view) for location in held] == [
        bytes([i]) for i in range(SLOTS)
    ]


def test_a_slot_that_is_being_written_is_never_reclaimed(prefix: str) -> None:
    with make_arena(prefix + "a", lease=timedelta(0)) as arena:
        writing = arena.reserve(SLOTS * SLOT)
        assert writing is not None
        assert arena.reserve(1) is None


def test_bytes_overwritten_under_a_reader_are_noticed(prefix: str, reader: ShmReader) -> None:
    with make_arena(prefix + "a", lease=timedelta(0)) as arena:
        reading = reader.read(put(arena, b"a" * SLOTS * SLOT))
        first_half = bytes(reading.view[: SLOTS * SLOT // 2])
        slot = arena.reserve(SLOTS * SLOT)
        assert slot is not None
        slot.view[:] = b"b" * SLOTS * SLOT
        torn = first_half + bytes(reading.view[SLOTS * SLOT // 2 :])
        assert set(torn) == {ord("a"), ord("b")}
        with pytest.raises(Miss):
            reading.check()


def test_a_reading_in_the_middle_of_a_later_payload_misses(prefix: str, reader: ShmReader) -> None:
    with make_arena(prefix + "a", lease=timedelta(0)) as arena:
        readings = [reader.read(put(arena, b"x")) for _ in range(SLOTS)]
        assert arena.reserve(SLOTS * SLOT) is not None
        for reading in readings:
            with pytest.raises(Miss):
                reading.check()


@pytest.mark.parametrize(
    "change",
    [
        {"slot": -1},
        {"slot": SLOTS},
        {"slot": 1},
        {"generation": 0},
        {"generation": -1},
        {"length": 1 << 40},
        {"length": -1},
        {"arena": "visionmesh-test-nobody"},
        {"arena": "../shm/visionmesh-test-nobody"},
        {"arena": ".."},
        {"arena": ""},
    ],
)
def test_a_reference_that_lies_misses(
    arena: ShmArena, reader: ShmReader, change: dict[str, int | str]
) -> None:
    location = put(arena, b"true")
    with pytest.raises(Miss):
        reader.read(location.model_copy(update=change))


def test_a_file_that_is_no_slab_misses(prefix: str, reader: ShmReader) -> None:
    for size in (0, 5, SLOT, 3 * SLOT):
        path = SHM / f"{prefix}{size}"
        path.write_bytes(b"\x01" * size)
        with pytest.raises(Miss):
            reader.read(ShmLocation(arena=path.name, slot=0, generation=1, length=1))
        path.unlink()


def test_an_arena_that_is_closed_misses(prefix: str, reader: ShmReader) -> None:
    with make_arena(prefix + "a") as arena:
        location = put(arena, b"gone")
        reading = reader.read(location)
    assert bytes(reading.view) == b"gone"
    with pytest.raises(Miss):
        ShmReader(directory=SHM).read(location)


def test_a_later_arena_of_the_same_name_is_another(prefix: str, reader: ShmReader) -> None:
    with make_arena(prefix + "a") as arena:
        old = put(arena, b"old")
        reader.read(old)
    with make_arena(prefix + "a") as arena:
        new = put(arena, b"new")
        assert new.slot == old.slot
        with pytest.raises(Miss):
            ShmReader(directory=SHM).read(old)
        assert bytes(reader.read(new).view) == b"new"
        with pytest.raises(Miss):
            reader.read(old)


def mapped(prefix: str) -> set[str]:
    """Return what this process has mapped of readers' slabs: writers' had no name at that time."""
    maps = Path("/proc/self/maps").read_text()
    return {word.rpartition("/")[2] for word in maps.split() if f"/{prefix}" in word}


def test_mappings_of_removed_arenas_are_dropped(prefix: str, reader: ShmReader) -> None:
    for number in range(20):
        with make_arena(f"{prefix}{number}") as arena:
            reader.read(put(arena, b"x"))
            assert mapped(prefix) == {arena.name}
    reader.forget_gone()
    assert not mapped(prefix)


def test_it_works_where_open_file_descriptions_have_no_locks(
    prefix: str, reader: ShmReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    with make_arena(prefix + "a") as arena:
        reading = reader.read(put(arena, b"here"))
        assert bytes(reading.view) == b"here"
        reading.check()


def test_two_living_arenas_cannot_have_one_name(prefix: str) -> None:
    with make_arena(prefix + "a"), pytest.raises(ConfigurationError):
        make_arena(prefix + "a")


def test_the_reaper_spares_the_living(prefix: str, reader: ShmReader) -> None:
    with make_arena(prefix + "a") as arena:
        location = put(arena, b"here")
        assert reap(SHM, prefix=prefix) == 0
        assert bytes(reader.read(location).view) == b"here"


@pytest.mark.parametrize(("size", "slot_bytes"), [(SLOT, 0), (SLOT, 100), (100, SLOT)])
def test_sizes_that_make_no_arena_are_refused(prefix: str, size: int, slot_bytes: int) -> None:
    with pytest.raises(ConfigurationError):
        ShmArena(directory=SHM, name=prefix + "a", size=size, slot_bytes=slot_bytes, lease=HOUR)


def test_more_than_the_shared_memory_there_is_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match="no room"):
        make_arena(prefix + "a", slots=1 << 34)


def test_one_reader_resolves_all_kinds_of_locations(arena: ShmArena) -> None:
    reading = Reader(directory=SHM).read(put(arena, b"shared"), memoryview(b""))
    assert bytes(reading.view) == b"shared"
