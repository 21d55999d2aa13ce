"""A GPU's memory between real processes, which may be killed at any moment."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

import pytest

from tests.visionmesh.tensors.arenas import SHM, SLOT, lay, open_arena
from tests.visionmesh.tensors.device_soak import Soak
from tests.visionmesh.tensors.peers import Peers, peers
from visionmesh.contracts import CudaLocation
from visionmesh.errors import Miss
from visionmesh.gpu import Gpu
from visionmesh.tensors import DeviceReader, reap


@pytest.fixture
def start(prefix: str) -> Iterator[Peers]:
    with peers("device_peer.py") as start:
        yield start
    reap(SHM, prefix=prefix)


@pytest.fixture
def reader() -> DeviceReader:
    return DeviceReader(directory=SHM, on_refused=lambda uuid, why: pytest.fail(why))


def written(answer: str) -> CudaLocation:
    return CudaLocation.model_validate_json(answer)


def test_a_payload_crosses_between_processes_and_is_freed_by_its_reader(
    gpu: Gpu, prefix: str, start: Peers
) -> None:
    payload = bytes(range(256)) * (2 * SLOT // 256)
    with open_arena(gpu, prefix + "a") as arena:
        peer = start("read", "release")
        answer = json.loads(peer.ask(lay(arena, payload).model_dump_json()))
        assert bytes.fromhex(answer) == payload
        peer.process.communicate()
        assert arena.used_bytes == 0


def test_a_killed_reader_leaves_the_payload_to_its_lease(
    gpu: Gpu, prefix: str, start: Peers
) -> None:
    with open_arena(gpu, prefix + "a", slots=1, lease=timedelta(0)) as arena:
        peer = start("read", "keep")
        peer.ask(lay(arena, b"read").model_dump_json())
        peer.kill()
        assert arena.used_bytes == SLOT
        assert arena.reserve(1) is not None
        assert arena.reclaimed == 1


def test_what_a_killed_writer_committed_misses_and_so_does_what_it_did_not(
    gpu_device: str, prefix: str, start: Peers, reader: DeviceReader
) -> None:
    peer = start("write", gpu_device, prefix + "a")
    location = written(peer.ask(b"lost".hex()))
    uncommitted = location.model_copy(
        update={"slot": location.slot + 1, "generation": location.generation + 1}
    )
    with pytest.raises(Miss, match="something else"):
        reader.read(uncommitted)
    assert bytes(reader.read(location).view) == b"lost"
    peer.kill()
    for gone in (location, uncommitted):
        with pytest.raises(Miss):
            reader.read(gone)
    assert reap(SHM, prefix=prefix) == 1


def test_a_writer_that_is_killed_while_it_is_read_from_makes_the_check_miss(
    gpu_device: str, prefix: str, start: Peers, reader: DeviceReader
) -> None:
    peer = start("write", gpu_device, prefix + "a")
    reading = reader.read(written(peer.ask(b"read".hex())))
    reading.check()
    peer.kill()
    with pytest.raises(Miss, match="died"):
        reading.check()
    reading.release()
    # Also when the slab is gone, and forgotten with the next look for another one.
    assert reap(SHM, prefix=prefix) == 1
    other = start("write", gpu_device, prefix + "b")
    assert bytes(reader.read(written(other.ask(b"next".hex()))).view) == b"next"
    with pytest.raises(Miss, match="died"):
        reading.check()


def test_two_who_ask_for_the_owner_do_not_take_each_other_for_it(
    gpu_device: str, prefix: str, start: Peers
) -> None:
    writer = start("write", gpu_device, prefix + "a")
    location = writer.ask(b"x".hex()).strip()
    asking = [start("read", "keep") for _ in range(2)]
    assert [json.loads(peer.ask(location)) for peer in asking] == [b"x".hex()] * 2
    writer.kill()
    for _ in range(20):
        assert all("dead" in peer.ask(location) for peer in asking)


def test_the_next_writer_of_a_name_replaces_a_killed_one(
    gpu_device: str, prefix: str, start: Peers, reader: DeviceReader
) -> None:
    peer = start("write", gpu_device, prefix + "a")
    old = written(peer.ask(b"old".hex()))
    assert bytes(reader.read(old).view) == b"old"
    peer.kill()
    peer = start("write", gpu_device, prefix + "a")
    new = written(peer.ask(b"new".hex()))
    assert bytes(reader.read(new).view) == b"new"
    with pytest.raises(Miss):
        reader.read(old)


async def test_nothing_wrong_is_believed_while_processes_are_killed(gpu_device: str) -> None:
    soak = Soak(gpu_device)
    least = Counter(kills=6, right=50, stale=10)
    await soak.run(
        timedelta(seconds=60), pause=timedelta(seconds=0.5), enough=lambda counts: least <= counts
    )
    assert soak.counts["wrong"] == 0
    assert least <= soak.counts
    assert set(soak.counts) <= {"kills", "right", "stale", "missed", "lost"}
