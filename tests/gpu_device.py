"""The device on which tests of GPUs run: the emulated one, unless they are told another.

With ``VISIONMESH_TEST_DEVICE=cuda pytest -m gpu`` the same tests run on a GPU.
"""

from __future__ import annotations

import os

import pytest

from visionmesh.gpu import Gpu, open_gpu

DEVICE = os.environ.get("VISIONMESH_TEST_DEVICE", "emulated")


@pytest.fixture(scope="session")
def gpu_device() -> str:
    """The name of the device, as in ``model.yaml`` and settings."""
    return DEVICE


@pytest.fixture
def gpu(gpu_device: str) -> Gpu:
    """The device."""
    return open_gpu(gpu_device)


def mark(items: list[pytest.Item]) -> None:
    """Mark the tests that ask for the device with ``gpu``."""
    for item in items:
        if "gpu_device" in getattr(item, "fixturenames", ()):
            item.add_marker("gpu")
