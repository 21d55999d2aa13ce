"""Outputs lie in a payload as they were, wherever they and their slot are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from visionmesh.gpu import Gpu
from visionmesh.gpu.copier import Copier
from visionmesh.handover import Outputs, handed, lay_out, lay_out_all, size_of, take_over
from visionmesh.tensors import (
    DeviceArena,
    InlineArena,
    Reader,
    ShmArena,
    Slot,
    arrays,
    device_arrays,
)

HOUR = timedelta(hours=1)
SIZE = 1 << 20

Arenas = dict[str, DeviceArena | ShmArena | InlineArena]
HostOutputs = dict[str, NDArray[Any]]


@pytest.fixture
def arenas(gpu: Gpu, tmp_path: Path) -> Iterator[Arenas]:
    with ExitStack() as stack:
        device = DeviceArena(gpu=gpu, directory=tmp_path, name="device", size=SIZE, lease=HOUR)
        shared = ShmArena(directory=tmp_path, name="shm", size=SIZE, lease=HOUR)
        stack.enter_context(device)
        stack.enter_context(shared)
        yield {"device": device, "shm": shared, "inline": InlineArena(max_bytes=SIZE)}


def make_outputs(seed: int = 1) -> HostOutputs:
    numbers = np.random.default_rng(seed)
    return {
        "boxes": numbers.normal(size=(7, 4)).astype(np.float32),
        "classes": numbers.integers(0, 255, (3, 5), np.uint8),
        "turned": numbers.normal(size=(6, 5)).astype(np.float16).T,
        "none": np.empty((0, 4), np.float32),
        "one": np.array(3, np.int64),
    }


def on_device(gpu: Gpu, host: HostOutputs) -> Outputs:
    with gpu.stream() as stream:
        there = {name: gpu.xp.asarray(array) for name, array in host.items()}
        stream.synchronize()
    return there


def room(arena: DeviceArena | ShmArena | InlineArena, nbytes: int) -> Slot:
    slot = arena.reserve(nbytes)
    assert slot is not None
    return slot


def check(found: HostOutputs, expected: HostOutputs) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("there", [False, True], ids=["from host", "from device"])
@pytest.mark.parametrize("where", ["device", "shm", "inline"])
def test_outputs_are_taken_over_as_they_were_handed_over(
    gpu: Gpu, arenas: Arenas, tmp_path: Path, where: str, there: bool
) -> None:
    expected = make_outputs()
    outputs = on_device(gpu, expected) if there else expected
    slot = room(arenas[where], size_of(outputs))
    body, headers = handed(lay_out(outputs, slot, Copier(gpu)), slot).behind(b"result")
    (header,) = headers.values()
    result, found = take_over(header, body, Reader(directory=tmp_path))
    assert result == b"result"
    check(found, expected)


def test_without_a_gpu_no_copier_is_needed(arenas: Arenas, tmp_path: Path) -> None:
    expected = make_outputs()
    slot = room(arenas["shm"], size_of(expected))
    body, headers = handed(lay_out(expected, slot), slot).behind(b"")
    (header,) = headers.values()
    check(take_over(header, body, Reader(directory=tmp_path))[1], expected)


def test_several_are_laid_out_together_and_found_on_the_device(
    gpu: Gpu, arenas: Arenas, tmp_path: Path
) -> None:
    expected = [make_outputs(seed) for seed in range(4)]
    jobs = [
        (on_device(gpu, one), room(arenas[where], size_of(one)))
        for one, where in zip(expected, ("device", "shm", "device", "inline"), strict=True)
    ]
    metas = lay_out_all(jobs, Copier(gpu))
    reader = Reader(directory=tmp_path)
    for (_, slot), one, told in zip(jobs, expected, metas, strict=True):
        location = slot.commit()
        reading = reader.read(location, slot.view if slot.device is None else memoryview(b""))
        check(arrays(reading.view, told), one)
        assert (reading.device is None) == (slot.device is None)
        if reading.device is not None:
            there = device_arrays(reading.device, told)
            home = {name: np.empty(array.shape, array.dtype) for name, array in there.items()}
            Copier(gpu).copy([(there[name], home[name]) for name in home])
            check(home, one)
