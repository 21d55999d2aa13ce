"""A plan as a `DeviceEngine` runs it: contexts, static buffers and a CUDA graph per batch size."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from services.infer.engines.host import NetworkError
from services.infer.engines.tensorrt.runtime import failure, listener, made
from visionmesh.gpu.gpu import (
    DeviceArray,
    Gpu,
    GpuError,
    GpuLostError,
    GpuMemoryError,
    Stream,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A deserialised plan: weights on the device, which all networks made of it share."""

    trt: Any
    engine: Any
    """The ``ICudaEngine``."""
    given: str
    """The name of the input."""
    shape: tuple[int, ...]
    """Of the input; -1 where it is free."""
    dtype: np.dtype[Any]
    outputs: Mapping[str, np.dtype[Any]]
    profiles: Mapping[int, int]
    """The optimisation profile for each batch size, ascending."""


def load_plan(trt: Any, file: Path, *, sizes: tuple[int, ...]) -> Plan:
    """Return the plan in ``file`` on the thread's current device.

    Raises
    ------
    GpuError
        If it is no plan for this device and release, `GpuMemoryError` if there is no room for it.
    NetworkError
        If it has a type of values that NumPy lacks, or runs with none of ``sizes``.
    """
    runtime = made(trt, trt.Runtime)
    engine = runtime.deserialize_cuda_engine(file.read_bytes())
    if engine is None:
        raise failure(trt, "TensorRT cannot load the plan")
    listener(trt).heard()  # what did not keep it from loading is no reason of what fails later
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
    if len(inputs) != 1:
        raise NetworkError(f"it takes {len(inputs)} inputs; it must be one")
    (given,) = inputs
    shape = tuple(engine.get_tensor_shape(given))
    return Plan(
        trt=trt,
        engine=engine,
        given=given,
        shape=shape,
        dtype=_dtype(trt, engine, given),
        outputs=MappingProxyType({n: _dtype(trt, engine, n) for n in names if n != given}),
        profiles={shape[0]: 0} if shape[0] > 0 else _profiles(engine, given, sizes),
    )


def _dtype(trt: Any, engine: Any, name: str) -> np.dtype[Any]:
    kind = engine.get_tensor_dtype(name)
    if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
        raise NetworkError(f"{name!r} is a shape, which no output can be here")
    try:
        found: np.dtype[Any] = np.dtype(trt.nptype(kind))
    except TypeError as error:
        raise NetworkError(f"{name!r} is {kind.name}, which no output can be here") from error
    return found


def _profiles(engine: Any, given: str, sizes: tuple[int, ...]) -> dict[int, int]:
    found: dict[int, int] = {}
    for index in range(engine.num_optimization_profiles):
        smallest, _, largest = engine.get_tensor_profile_shape(given, index)
        for size in sizes:
            if smallest[0] <= size <= largest[0]:
                found.setdefault(size, index)
    if not found:
        raise NetworkError(f"the plan runs with none of the batch sizes {sizes}")
    return dict(sorted(found.items()))


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """All that one batch size needs; nothing of it changes any more."""

    launch: Callable[[], None]
    outputs: Mapping[str, DeviceArray]
    context: Any
    scratch: DeviceArray
    """What the context works in."""


class TensorRTNetwork:
    """Runs a plan on one stream.

    Each batch size has a context of its own, so that its graph holds for as long; as only one runs
    at a time, they work in the same memory.
    """

    def __init__(self, *, plan: Plan, gpu: Gpu, graphs: bool) -> None:
        self._plan: Plan | None = plan
        self._gpu = gpu
        self._graphs = graphs
        self._sizes = tuple(plan.profiles)
        self._prepared: dict[int, _Prepared] = {}
        self._scratch: DeviceArray | None = None
        self._stream: Stream | None = None

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        return self._sizes

    def __call__(self, images: DeviceArray, stream: Stream) -> Mapping[str, DeviceArray]:
        prepared = self._prepared.get(len(images))
        if prepared is None:
            prepared = self._prepared[len(images)] = self._prepare(images, stream)
        prepared.launch()
        return prepared.outputs

    def close(self) -> None:
        if self._stream is None:
            self._plan = None
            return
        with self._stream:  # contexts and weights are freed on their own device
            self._prepared.clear()
            self._scratch = self._plan = None

    def _prepare(self, images: DeviceArray, stream: Stream) -> _Prepared:
        assert self._plan is not None, "the network is closed"
        self._stream = stream
        trt, engine, given = self._plan.trt, self._plan.engine, self._plan.given
        profile = self._plan.profiles[len(images)]
        context = engine.create_execution_context(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if context is None:
            raise _failure(trt, "TensorRT makes no context")
        try:
            fits = (
                context.set_optimization_profile_async(profile, stream.pointer)
                and context.set_input_shape(given, images.shape)
                and context.set_tensor_address(given, self._gpu.address(images))
                and not context.infer_shapes()
            )
        except RuntimeError:  # the first and the last say so if they fail
            fits = False
        if not fits:
            raise _failure(trt, f"TensorRT does not take images of the shape {images.shape}")
        scratch = self._working_memory(engine, profile)
        context.set_device_memory(self._gpu.address(scratch), scratch.nbytes)
        outputs = {name: self._output(context, name) for name in self._plan.outputs}

        def run() -> None:
            if not context.execute_async_v3(stream.pointer):
                raise _failure(trt, "TensorRT does not run it")

        # What is done at the first run only must be no part of a graph.
        run()
        launch = self._captured(run, stream, len(images)) if self._graphs else run
        return _Prepared(launch=launch, outputs=outputs, context=context, scratch=scratch)

    def _output(self, context: Any, name: str) -> DeviceArray:
        assert self._plan is not None
        shape = tuple(context.get_tensor_shape(name))
        if any(side < 0 for side in shape):
            raise NetworkError(
                f"the size of its output {name!r}, {shape}, depends on what is in the images, and "
                "an answer must have as much for each; another engine may run it"
            )
        array = self._allocated(shape, self._plan.outputs[name])
        context.set_tensor_address(name, self._gpu.address(array))
        return array

    def _working_memory(self, engine: Any, profile: int) -> DeviceArray:
        """Return memory that all contexts share; where not all of that is free, less."""
        wanted = engine.get_device_memory_size_for_profile_v2(profile)
        if self._scratch is None or self._scratch.nbytes < wanted:
            try:
                self._scratch = self._allocated((max(engine.device_memory_size_v2, 1),), np.uint8)
            except GpuMemoryError:
                self._scratch = self._allocated((max(wanted, 1),), np.uint8)
        return self._scratch

    def _allocated(self, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        try:
            return self._gpu.xp.empty(shape, dtype)
        except MemoryError as error:
            raise GpuMemoryError(str(error)) from error

    def _captured(self, run: Callable[[], None], stream: Stream, size: int) -> Callable[[], None]:
        assert self._plan is not None
        try:
            return stream.capture(run)
        except GpuLostError:
            raise
        except (GpuError, NetworkError) as error:
            log.info("batches of %d run without a CUDA graph: %s", size, error)
            listener(self._plan.trt).heard()  # it is no reason of what may fail later
            return run


def _failure(trt: Any, what: str) -> Exception:
    """Return why the network does not run: what is wrong with the device itself, it tells later."""
    error = failure(trt, what)
    return error if isinstance(error, GpuMemoryError) else NetworkError(str(error))
