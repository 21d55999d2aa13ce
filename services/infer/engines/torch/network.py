"""A program as the engines around it call it: from the host's memory, or from the device's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from services.infer.engines import Outputs
from services.infer.engines.host import NetworkError
from services.infer.engines.torch.program import reason
from services.infer.engines.torch.runner import Tensors

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
        except RuntimeError as error:
            raise NetworkError(reason(error)) from error
        arrays = {name: value.numpy() for name, value in outputs.items()}
        # A network may give its input, or a part of it, as it is.
        return {
            name: array.copy() if np.may_share_memory(array, images) else array
            for name, array in arrays.items()
        }
