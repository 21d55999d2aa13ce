"""A program as the engines around it call it: from the host's memory, or from the device's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from services.infer.engines import Outputs
from services.infer.engines.host import NetworkError
from services.infer.engines.torch.program import FAILURES, lacks_memory, reason
from services.infer.engines.torch.runner import Tensors
from visionmesh.gpu.gpu import DeviceArray, Gpu, GpuError, GpuMemoryError, Stream

Run = Callable[[torch.Tensor], Tensors]
"""A `Runner`, or a `ParallelRunner`."""


class HostNetwork:
    """A program on the CPU; several may share one ``run``."""

    def __init__(self, run: Run, *, batch: int | None, threads: int) -> None:
        self._run = run
        self._threads = threads
        self.batch = batch

    def __call__(self, images: NDArray[Any]) -> Outputs:
        # Of the calling thread: each engine has one of its own.
        torch.set_num_threads(self._threads)
        try:
            outputs = self._run(torch.from_numpy(images))
        except FAILURES as error:
            raise NetworkError(reason(error)) from error
        arrays = {name: value.numpy() for name, value in outputs.items()}
        # A network may give its input, or a part of it, as it is.
        return {
            name: array.copy() if np.may_share_memory(array, images) else array
            for name, array in arrays.items()
        }


class DeviceNetwork:
    """A program on a GPU, or on an emulated one: what PyTorch reads and writes is not copied."""

    def __init__(
        self, run: Run, *, gpu: Gpu, sizes: tuple[int, ...], close: Callable[[], None]
    ) -> None:
        self._run: Run | None = run
        self._gpu = gpu
        self._close = close
        self.batch_sizes = sizes

    def __call__(self, images: DeviceArray, stream: Stream) -> Mapping[str, DeviceArray]:
        assert self._run is not None, "the network is closed"
        with self._on(stream):
            try:
                outputs = self._run(torch.from_dlpack(images))
            except FAILURES as error:
                raise _as_told(error) from error
            return {name: self._gpu.xp.from_dlpack(value) for name, value in outputs.items()}

    def _on(self, stream: Stream) -> AbstractContextManager[Any]:
        """Let PyTorch enqueue on ``stream``."""
        if self._gpu.info.kind != "cuda":
            return nullcontext()
        device = torch.device("cuda", self._gpu.info.index)
        own = torch.cuda.ExternalStream(stream.pointer, device=device)
        chosen: AbstractContextManager[Any] = torch.cuda.stream(own)
        return chosen

    def close(self) -> None:
        self._run = None
        self._close()
        if self._gpu.info.kind == "cuda":
            torch.cuda.empty_cache()


def _as_told(error: Exception) -> NetworkError | GpuError:
    """Return what PyTorch's error on a device means."""
    if lacks_memory(error):
        return GpuMemoryError(reason(error))
    kind = GpuError if isinstance(error, torch.AcceleratorError) else NetworkError
    return kind(reason(error))
