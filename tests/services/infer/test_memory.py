"""What is taken of a GPU is seen in what is left."""

from __future__ import annotations

import pytest

from services.infer.memory import Meter, NoRoom, present
from visionmesh.errors import Code, Retry
from visionmesh.gpu import GpuError, open_gpu

MEBIBYTE = 1 << 20


def test_what_is_taken_of_a_device_is_told_once_by_whatever_names() -> None:
    gpu = open_gpu("emulated:0")
    kept = gpu.share(MEBIBYTE)
    meter = Meter(["emulated", "emulated:0", "emulated:1"])
    taken = gpu.share(3 * MEBIBYTE)
    assert meter.gpus(["emulated", "emulated:0", "cpu"]) == {"EMULATED-0"}
    assert meter.taken() == {"EMULATED-0": 3 * MEBIBYTE, "EMULATED-1": 0}
    kept.close()
    taken.close()
    assert meter.taken()["EMULATED-0"] == 0, "less than nothing cannot be taken"


def test_devices_that_are_no_gpus_of_this_node_are_not_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(_: str) -> None:
        raise GpuError("the driver is of another release")

    assert Meter(["cpu", "cuda:GPU-elsewhere"]).taken() == {}
    monkeypatch.setattr("services.infer.memory.open_gpu", broken)
    assert present("cuda") is None


def test_a_device_is_taken_for_empty_while_others_have_little_of_it() -> None:
    gpu = open_gpu("emulated:2")
    few = gpu.share(gpu.info.memory_bytes // 20)
    assert Meter(["emulated:2"]).full("emulated:2", "it is full").empty
    many = gpu.share(gpu.info.memory_bytes // 10)
    full = Meter(["emulated:2"]).full("emulated:2", "it is full")
    assert full.gpus == {"EMULATED-2"}
    assert not full.empty
    assert str(full) == "it is full"
    few.close()
    many.close()


def test_who_finds_no_room_is_to_come_again() -> None:
    error = NoRoom("it is full")
    assert isinstance(error, Retry)
    assert error.code is Code.MODEL_NOT_READY
    assert error.delay.total_seconds() > 0
