"""What a GPU's errors mean for an image, and for the worker."""

from __future__ import annotations

from datetime import timedelta

import pytest

from visionmesh.errors import Code, Fatal, Retry
from visionmesh.gpu import GpuError
from visionmesh.gpu.failures import device_failures
from visionmesh.gpu.gpu import GpuLostError, GpuMemoryError


def test_an_image_waits_for_a_full_gpu_without_using_up_its_attempts() -> None:
    with pytest.raises(Retry, match="none left") as raised, device_failures():
        raise GpuMemoryError("none left")
    assert raised.value.code is Code.MESH_FULL
    assert raised.value.delay > timedelta(0)


def test_an_image_is_tried_again_where_the_gpu_failed() -> None:
    with pytest.raises(Retry, match="misaligned") as raised, device_failures():
        raise GpuError("misaligned")
    assert raised.value.code is Code.INTERNAL


def test_a_gpu_that_is_lost_ends_the_worker() -> None:
    with pytest.raises(Fatal, match="illegal address"), device_failures():
        raise GpuLostError("illegal address")
