"""Copies between the memory of the host and that of a GPU, several at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionmesh.gpu.failures import device_failures
from visionmesh.gpu.gpu import DeviceArray, Gpu

AnyArray = NDArray[Any] | DeviceArray


class Copier:
    """Copies on a stream of its own; may be used by any thread."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self._stream = gpu.stream()

    def copy(self, pairs: Iterable[tuple[AnyArray, AnyArray]]) -> None:
        """Copy each source into its target, of the same shape and dtype; return when all is done.

        Either may be on the host or on the device. Targets must be contiguous. What wrote the
        sources must be finished.

        Raises
        ------
        Retry, Fatal
            If the device fails: see `device_failures`.
        """
        with device_failures(), self._stream as stream:
            try:
                # Sources that are made contiguous must last until they are copied.
                ready = [(self._contiguous(source), target) for source, target in pairs]
                for source, target in ready:
                    self._enqueue(source, target)
            finally:
                stream.synchronize()

    def _contiguous(self, array: AnyArray) -> AnyArray:
        return (np if isinstance(array, np.ndarray) else self.gpu.xp).asarray(array, order="C")

    def _enqueue(self, source: AnyArray, target: AnyArray) -> None:
        from_host, to_host = isinstance(source, np.ndarray), isinstance(target, np.ndarray)
        if from_host == to_host:
            (np if to_host else self.gpu.xp).copyto(target, source)
        elif from_host:
            self.gpu.upload(source, target)
        else:
            self.gpu.download(source, target)
