"""How the kernels of this folder are launched."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from visionmesh.gpu.gpu import DeviceArray, Kernel

BLOCK = 128
"""Threads that start together: enough to keep a multiprocessor busy, few enough to spread an image
over many."""


def blocks(threads: int) -> int:
    """Return how many blocks have so many threads."""
    return -(-threads // BLOCK)


def launch(
    kernel: Kernel,
    grid: tuple[int, ...],
    arrays: Mapping[str, DeviceArray],
    names: str,
    *numbers: int | np.float32,
    threads: int = BLOCK,
) -> None:
    """Enqueue ``kernel`` with the ``arrays`` of these names, and then the numbers.

    ``grid`` counts blocks of ``threads``.
    """
    values = (np.int32(number) if isinstance(number, int) else number for number in numbers)
    kernel(grid, (threads,), (*(arrays[name] for name in names.split()), *values))
