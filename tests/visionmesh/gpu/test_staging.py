"""Memory through which batches travel: it has room for all, and keeps apart what it was given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from visionmesh.gpu import Gpu, GpuError
from visionmesh.gpu.gpu import GpuMemoryError
from visionmesh.gpu.staging import Growing, Place, Staging

SIZES = (1, 700, 256, 3000)


def filled(staging: Staging, sizes: tuple[int, ...]) -> list[Place]:
    """Take parts of these sizes, and write the number of each into it on the host."""
    places = []
    for number, size in enumerate(sizes, 1):
        place = staging.take(size)
        assert place is not None
        assert len(place.host) == len(place.device) == size
        place.host[:] = number
        places.append(place)
    return places


@pytest.mark.parametrize("sizes", [SIZES, tuple(7 * size for size in SIZES)])
def test_what_is_taken_goes_up_and_comes_home_in_its_own_place(
    gpu: Gpu, sizes: tuple[int, ...]
) -> None:
    with gpu.stream() as stream:
        staging = Staging(gpu=gpu, sizes=SIZES)
        for _ in range(2):
            staging.clear()
            staging.reserve(sizes)
            places = filled(staging, sizes)
            staging.upload()
            stream.synchronize()
            for place in places:
                place.host[:] = 0
                place.device[:] = place.device + 100
            staging.download()
            stream.synchronize()
            for number, place in enumerate(places, 101):
                assert set(place.host.tolist()) == {number}


def test_there_is_no_room_before_what_was_taken_is_given_back(gpu: Gpu) -> None:
    with gpu.stream():
        staging = Staging(gpu=gpu, sizes=[500])
        assert staging.take(500) is not None
        assert staging.take(500) is None
        staging.clear()
        assert staging.take(500) is not None


def test_parts_begin_where_kernels_read_as_much_at_once_as_they_can(gpu: Gpu) -> None:
    with gpu.stream():
        staging = Staging(gpu=gpu, sizes=SIZES)
        begins = [gpu.address(place.device) for place in filled(staging, SIZES)]
    assert {(begin - begins[0]) % 256 for begin in begins} == {0}


def test_what_a_growing_batch_replaced_is_less_than_what_it_has() -> None:
    made: list[int] = []

    def make(nbytes: int) -> Any:
        made.append(nbytes)
        return np.empty(nbytes, np.uint8)

    memory = Growing(make, nbytes=1)
    for nbytes in range(1, 10_000, 7):
        memory.reserve(nbytes)
        assert memory.all.nbytes >= nbytes
    *replaced, last = made
    assert sum(replaced) < last < 2 * 10_000


def test_a_device_that_is_full_leaves_what_there_was(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the host had more: both are as large as what is taken."""

    def refuse(nbytes: int) -> Any:
        raise GpuMemoryError("it is full")

    with gpu.stream() as stream:
        staging = Staging(gpu=gpu, sizes=[500])
        monkeypatch.setattr(staging._device, "_make", refuse)
        with pytest.raises(GpuError, match="full"):
            staging.reserve([5000])
        assert staging.take(5000) is None
        (place,) = filled(staging, (500,))
        staging.upload()
        stream.synchronize()
        assert set(place.device.tolist()) == {1}
