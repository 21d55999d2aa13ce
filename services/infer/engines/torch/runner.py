"""Runs a network on its device: eagerly, compiled, or as a captured CUDA graph per batch size."""

from __future__ import annotations

import logging
from contextlib import nullcontext, suppress
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from services.infer.engines.torch.options import Options
from services.infer.engines.torch.program import lacks_memory, named, reason

_WARM_RUNS = 3
"""Before a capture: libraries choose algorithms and take their memory in the first ones, which a
capture must not see. (PyTorch's own notes on CUDA graphs do 3.)"""

_MOST_SIZES = 64
"""Batch sizes that are compiled: more than there are; the compiler would stop after 8."""

Tensors = dict[str, torch.Tensor]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Graph:
    graph: Any
    address: int
    """Of the images that it reads."""
    outputs: Tensors


class Runner:
    """A network on one device; used by one thread at a time.

    With graphs, outputs lie in the same memory for the same batch size, and inputs must.
    """

    def __init__(self, network: fx.GraphModule, *, device: torch.device, options: Options) -> None:
        self._network: Any = network
        self._device = device
        self._halves = options.halves
        self._graphs: dict[int, _Graph] | None = None
        self._compiles = options.compile
        if options.compile:
            self._network = torch.compile(network, mode=options.mode, dynamic=False)
        if options.graphs and device.type == "cuda":
            self._start_graphs()

    def another(self) -> Runner:
        """Return one that may run at the same time, with the same weights."""
        other = copy(self)
        if self._graphs is not None:
            other._start_graphs()
        return other

    def _start_graphs(self) -> None:
        self._graphs = {}
        self._pool = torch.cuda.graph_pool_handle()
        # PyTorch's own for captures is one for all devices, and of the first one's. Captures that
        # share memory want the same stream.
        self._stream = torch.cuda.Stream(self._device)

    def __call__(self, images: torch.Tensor) -> Tensors:
        """Return what the network says of a batch on the current stream; raise `RuntimeError`."""
        with torch.inference_mode(), self._precision():
            if self._graphs is None:
                return self._eager(images)
            graph = self._graphs.get(len(images)) or self._captured(images)
            if graph is None:
                return self._eager(images)
            assert graph.address == images.data_ptr(), "a graph reads the memory it was made with"
            graph.graph.replay()
            return graph.outputs

    def _eager(self, images: torch.Tensor) -> Tensors:
        if self._compiles:
            # Of the thread that runs, which is not the one that loads.
            torch._dynamo.config.recompile_limit = _MOST_SIZES
        return named(self._network(images))

    def _captured(self, images: torch.Tensor) -> _Graph | None:
        """Return what a batch size does as a graph; `None`, and none from now on, if it cannot."""
        assert self._graphs is not None
        for _ in range(_WARM_RUNS):
            self._eager(images)
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        try:
            # Other threads use the device meanwhile, and must not end the capture.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                outputs = self._eager(images)
        except RuntimeError as error:
            # PyTorch before 2.12 leaves both as they were in the capture.
            torch.cuda.set_stream(stream)
            with suppress(RuntimeError):
                torch._C._cuda_endAllocateToPool(self._device.index, self._pool)
            if lacks_memory(error):
                raise
            log.warning("a program runs without CUDA graphs: %s", reason(error))
            self._graphs = None
            return None
        made = self._graphs[len(images)] = _Graph(
            graph=graph, address=images.data_ptr(), outputs=outputs
        )
        return made

    def _precision(self) -> Any:
        if self._halves is None:
            return nullcontext()
        # A graph must not keep what is turned into halves elsewhere.
        return torch.autocast(self._device.type, dtype=self._halves, cache_enabled=False)
