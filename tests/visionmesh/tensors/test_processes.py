"""An arena between real processes, which may be killed at any moment."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest

from tests.visionmesh.tensors.arenas import SHM, SLOT, make_arena, put
from tests.visionmesh.tensors.peers import Peers, peers
from visionmesh.contracts import ShmLocation
from visionmesh.errors import Miss
from visionmesh.tensors import ShmReader, reap


@pytest.fixture
def start(prefix: str) -> Iterator[Peers]:
    with peers("peer.py") as start:
        yield start
    reap(SHM, prefix=prefix)


def test_a_payload_crosses_between_processes_and_is_freed_by_its_reader(
    prefix: str, start: Peers
) -> None:
    payload = bytes(range(256)) * (2 * SLOT // 256)
    with make_arena(prefix + "a") as arena:
        peer = start("read", "release")
        answer = json.loads(peer.ask(put(arena, payload).model_dump_json()))
        assert bytes.fromhex(answer) == payload
        peer.process.communicate()
        assert arena.used_bytes == 0


def test_a_killed_reader_leaves_the_payload_to_its_lease(prefix: str, start: Peers) -> None:
    with make_arena(prefix + "a", slots=1, lease=timedelta(0)) as arena:
        peer = start("read", "keep")
        peer.ask(put(arena, b"read").model_dump_json())
        peer.kill()
        assert arena.used_bytes == SLOT
        assert arena.reserve(1) is not None
        assert arena.reclaimed == 1


def test_a_killed_writer_leaves_what_it_committed_until_it_is_reaped(
    prefix: str, start: Peers
) -> None:
    peer = start("write", prefix + "a")
    location = ShmLocation.model_validate_json(peer.ask(b"kept".hex()))
    peer.kill()
    reader = ShmReader(directory=SHM)
    assert bytes(reader.read(location).view) == b"kept"
    half_written = location.model_copy(
        update={"slot": location.slot + 1, "generation": location.generation + 1}
    )
    with pytest.raises(Miss):
        reader.read(half_written)
    assert reap(SHM, prefix=prefix) == 1
    with pytest.raises(Miss):
        ShmReader(directory=SHM).read(location)


def test_the_next_writer_of_a_name_replaces_a_killed_one(prefix: str, start: Peers) -> None:
    peer = start("write", prefix + "a")
    old = ShmLocation.model_validate_json(peer.ask(b"old".hex()))
    peer.kill()
    peer = start("write", prefix + "a")
    new = ShmLocation.model_validate_json(peer.ask(b"new".hex()))
    reader = ShmReader(directory=SHM)
    assert bytes(reader.read(new).view) == b"new"
    with pytest.raises(Miss):
        reader.read(old)


def test_the_reaper_takes_the_dead_and_spares_the_living_and_the_strangers(
    prefix: str, start: Peers
) -> None:
    dead, living = start("write", prefix + "x-dead"), start("write", prefix + "x-living")
    other = start("write", prefix + "y-dead")
    for peer in (dead, living, other):
        peer.ask("00")
    dead.kill()
    other.kill()
    assert reap(SHM, prefix=prefix + "x-") == 1
    assert {path.name for path in SHM.glob(prefix + "*")} == {
        prefix + "x-living",
        prefix + "y-dead",
    }
    assert reap(SHM, prefix=prefix) == 1


def test_a_writer_that_ends_well_leaves_nothing(prefix: str, start: Peers) -> None:
    peer = start("write", prefix + "a")
    peer.ask("00")
    peer.process.communicate()
    assert peer.process.returncode == 0
    assert list(SHM.glob(prefix + "*")) == []


def test_no_torn_payload_is_ever_believed(prefix: str, start: Peers) -> None:
    """A writer overwrites the only slot as fast as it can while we copy from it."""
    nbytes = 64 * SLOT
    peer = start("churn", prefix + "a", str(nbytes))
    reader = ShmReader(directory=SHM)
    location = ShmLocation.model_validate_json(peer.hear())
    whole = torn = 0
    deadline = time.monotonic() + 20
    while (whole < 200 or torn < 5) and time.monotonic() < deadline:
        try:
            reading = reader.read(location)
        except Miss:
            location = ShmLocation.model_validate_json(peer.hear())
            continue
        copy = bytes(reading.view)
        try:
            reading.check()
        except Miss:
            torn += 1
            continue
        whole += 1
        assert copy == copy[:1] * nbytes
    assert whole > 0
    assert torn > 0
