"""Memory through which a batch goes up in one copy, or comes home in one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from visionmesh.gpu.gpu import DeviceArray, Gpu

_ALIGNMENT = 256
"""Of what CUDA allocates, too: a multiple of all that kernels read at once."""


class Growing:
    """Memory, ``(nbytes,) uint8``, that is replaced by more where it is too small.

    It grows to powers of two: pools keep what was replaced, which is less than what is in use then.
    """

    def __init__(self, make: Callable[[int], DeviceArray], *, nbytes: int) -> None:
        self._make = make
        self.all = make(nbytes)

    def reserve(self, nbytes: int) -> None:
        """Have at least ``nbytes``; what was there before may be lost."""
        if nbytes > self.all.nbytes:
            self.all = self._make(1 << (nbytes - 1).bit_length())


def pinned(gpu: Gpu, *, nbytes: int = 1) -> Growing:
    """Return page-locked memory of the host."""
    return Growing(gpu.pinned, nbytes=nbytes)


def on_device(gpu: Gpu, *, nbytes: int = 1) -> Growing:
    """Return memory of the device; it belongs to the stream that is current when it grows."""
    return Growing(partial(gpu.xp.empty, dtype=np.uint8), nbytes=nbytes)


class Place(NamedTuple):
    """A part of the staging, on the host and on the device; both ``(nbytes,) uint8``."""

    host: NDArray[np.uint8]
    device: DeviceArray


class Staging:
    """Page-locked memory of the host, and as much on the device, for parts of ``sizes`` in bytes.

    All that is done with it is enqueued on one stream.
    """

    def __init__(self, *, gpu: Gpu, sizes: Iterable[int]) -> None:
        self._gpu = gpu
        self._used = 0
        nbytes = sum(map(_aligned, sizes))
        self._host = pinned(gpu, nbytes=nbytes)
        self._device = on_device(gpu, nbytes=nbytes)

    def reserve(self, sizes: Iterable[int]) -> None:
        """Make sure that parts of these sizes in bytes have room together; none may be taken yet.

        Raises
        ------
        GpuError
            If there is no memory for them; what there was can still be used.
        """
        wanted = sum(map(_aligned, sizes))
        self._host.reserve(wanted)
        self._device.reserve(wanted)

    def take(self, nbytes: int) -> Place | None:
        """Return room for ``nbytes``; `None` if there is none before the next `clear`."""
        begin, end = self._used, self._used + nbytes
        if end > self._device.all.nbytes:
            return None
        self._used = _aligned(end)
        return Place(self._host.all[begin:end], self._device.all[begin:end])

    def upload(self) -> None:
        """Enqueue the copy of all that was taken to the device."""
        if self._used:
            self._gpu.upload(self._host.all[: self._used], self._device.all[: self._used])

    def download(self) -> None:
        """Enqueue the copy of all that was taken to the host."""
        if self._used:
            self._gpu.download(self._device.all[: self._used], self._host.all[: self._used])

    def clear(self) -> None:
        """Give all room back; what was enqueued must be finished."""
        self._used = 0


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT
