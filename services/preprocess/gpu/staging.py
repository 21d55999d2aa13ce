"""Memory through which a batch goes up in one copy, and its results come down in another."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from visionmesh.gpu import Gpu
from visionmesh.gpu.gpu import DeviceArray

_ALIGNMENT = 256
"""Of what CUDA allocates, too."""


class Place:
    """A part of the staging, on the host and on the device; both ``(nbytes,) uint8``."""

    __slots__ = ("device", "host")

    def __init__(self, *, host: NDArray[np.uint8], device: DeviceArray) -> None:
        self.host = host
        self.device = device


class Staging:
    """Page-locked memory of the host, and as much on the device."""

    def __init__(self, *, gpu: Gpu, nbytes: int) -> None:
        self._gpu = gpu
        self._used = 0
        self._allocate(nbytes)

    def _allocate(self, nbytes: int) -> None:
        self._host = self._gpu.pinned(nbytes)
        self._device: DeviceArray = self._gpu.xp.empty(nbytes, np.uint8)

    def reserve(self, sizes: Iterable[int]) -> None:
        """Make sure that parts of these sizes in bytes have room together; nothing is taken yet."""
        wanted = sum(map(_aligned, sizes))
        if wanted > self._host.nbytes:
            self._allocate(wanted)

    def take(self, nbytes: int) -> Place | None:
        """Return room for ``nbytes``; `None` if there is none before the next `clear`."""
        begin, end = self._used, self._used + nbytes
        if end > self._host.nbytes:
            return None
        self._used = _aligned(end)
        return Place(host=self._host[begin:end], device=self._device[begin:end])

    def upload(self) -> None:
        """Enqueue the copy of all that was taken to the device."""
        if self._used:
            self._gpu.upload(self._host[: self._used], self._device[: self._used])

    def download(self) -> None:
        """Enqueue the copy of all that was taken to the host."""
        if self._used:
            self._gpu.download(self._device[: self._used], self._host[: self._used])

    def clear(self) -> None:
        """Give all room back; what was enqueued must be finished."""
        self._used = 0


def _aligned(nbytes: int) -> int:
    return math.ceil(nbytes / _ALIGNMENT) * _ALIGNMENT
