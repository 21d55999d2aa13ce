"""What the driver's figures mean for a mesh."""

from __future__ import annotations

from typing import Any

import pytest

from visionmesh.gpu.listing import RawGpu, RawSlice, listing

GIB = 1 << 30


def h100(**changes: Any) -> RawGpu:
    """Return what NVML says of an H100 in use, with ``changes``."""
    told: dict[str, Any] = {
        "index": 0,
        "uuid": "GPU-5a1f7f6d-2f0c-4c3a-9f0a-1d1f0a1b2c3d",
        "name": "NVIDIA H100 80GB HBM3",
        "memory_total": 80 * GIB,
        "memory_used": 6 * GIB,
        "memory_free": 74 * GIB,
        "utilization": 37,
        "temperature": 41,
        "ecc_uncorrected": 0,
        "rows_pending": 0,
        "rows_failed": 0,
        "slowed": 0x1,
        "recovery": 0,
        "processes": ((4711, 5 * GIB),),
    }
    return RawGpu(**{**told, **changes})


def test_a_gpu_in_order_is_healthy_and_warns_of_nothing() -> None:
    found = listing(h100())
    assert (found.healthy, found.warnings) == (True, ())
    assert (found.utilization, found.temperature) == (0.37, 41)
    assert [(one.pid, one.memory_bytes) for one in found.processes] == [(4711, 5 * GIB)]


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"lost": "GPU is lost"}, "has lost it: GPU is lost"),
        ({"recovery": 1}, "asks for a reset of the GPU"),
        ({"recovery": 7}, "asks for a restart of the machine"),
        ({"xids": (31, 79)}, "Xid 79"),
        ({"rows_failed": 1}, "could not be replaced"),
        ({"ecc_uncorrected": 2, "recovery": None}, "2 memory errors"),
    ],
)
def test_a_gpu_that_must_not_be_used_says_why(told: dict[str, Any], why: str) -> None:
    found = listing(h100(**told))
    assert not found.healthy
    assert why in str(found.unfit)


@pytest.mark.parametrize(
    ("told", "warning"),
    [
        ({"ecc_uncorrected": 1}, "1 memory error that"),
        ({"recovery": 4}, "once it is drained"),
        ({"recovery": 99}, "recovery action 99"),
        ({"pages_pending": 1}, "a page of its memory"),
        ({"rows_pending": 1}, "a row of its memory"),
        ({"slowed": 0x24}, "slowed down by its temperature"),
    ],
)
def test_what_is_not_as_it_should_be_is_told_of_a_gpu_that_computes(
    told: dict[str, Any], warning: str
) -> None:
    found = listing(h100(**told))
    assert found.healthy
    assert len(found.warnings) == 1
    assert warning in found.warnings[0]


def test_an_applications_own_faults_do_not_make_its_gpu_unfit() -> None:
    assert listing(h100(xids=(13, 31, 43, 45, 94, 109))).healthy


def test_what_a_gpu_does_not_tell_is_left_open() -> None:
    found = listing(RawGpu(index=1, uuid="GPU-1", name="NVIDIA GeForce RTX 3060"))
    assert found.healthy
    assert (found.memory_total, found.utilization, found.temperature) == (None, None, None)


def test_slices_are_told_by_their_profile() -> None:
    part = RawSlice(uuid="MIG-1", name="NVIDIA H100 80GB HBM3 MIG 1g.10gb", memory_total=10 * GIB)
    found = listing(h100(slices=(part,)))
    assert [(one.uuid, one.profile) for one in found.slices] == [("MIG-1", "1g.10gb")]
    assert found.has("MIG-1")
    assert found.has(found.uuid)
    assert not found.has("MIG-2")
