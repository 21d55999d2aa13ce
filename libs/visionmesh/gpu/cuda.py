"""NVIDIA GPUs, by CuPy; imported only where one is asked for."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Self
from weakref import WeakValueDictionary

import cupy
import numpy as np
from cupy.cuda import runtime
from numpy.typing import NDArray

from visionmesh.gpu.cuda_driver import ignore_captures, told
from visionmesh.gpu.gpu import (
    DeviceArray,
    DeviceInfo,
    Event,
    Kernel,
    SharedMemory,
    Stream,
)

_PRELUDE = Path(__file__).with_name("cuda.h")
_BLOCK_BYTES = 2 << 20
"""CUDA cuts smaller allocations from blocks of this size, and shares whole blocks: only multiples
of it have theirs to themselves (CUDA C++ Programming Guide, Interprocess Communication)."""


class _Event:
    def __init__(self, event: Any) -> None:
        self._event = event

    def synchronize(self) -> None:
        with told():
            self._event.synchronize()

    @property
    def raw(self) -> Any:
        """CuPy's own."""
        return self._event


class CudaStream:
    """A stream that does not wait for the default one."""

    def __init__(self, index: int) -> None:
        self._device = cupy.cuda.Device(index)
        with self._device, told():
            self.raw = cupy.cuda.Stream(non_blocking=True)
            """CuPy's own."""

    @property
    def pointer(self) -> int:
        pointer: int = self.raw.ptr
        return pointer

    def __enter__(self) -> Self:
        ignore_captures()
        self._device.__enter__()
        self.raw.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self.raw.__exit__(*raised)
        self._device.__exit__(*raised)
        _, error, _ = raised
        if isinstance(error, Exception):
            # Arrays raise CuPy's errors, for memory that there is not and for what failed before.
            with told():
                raise error

    def record(self) -> Event:
        with self._device, told():
            event = cupy.cuda.Event(block=True, disable_timing=True)
            event.record(self.raw)
        return _Event(event)

    def wait(self, event: Event) -> None:
        assert isinstance(event, _Event)
        with told():
            self.raw.wait_event(event.raw)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        with self, told():
            # Only what this thread does must be fit for a graph: others go on allocating.
            self.raw.begin_capture(runtime.streamCaptureModeThreadLocal)
            try:
                work()
            finally:
                graph = self.raw.end_capture()
            graph.upload(self.raw)
        return lambda: self._launch(graph)

    def _launch(self, graph: Any) -> None:
        with told():
            graph.launch(self.raw)

    def synchronize(self) -> None:
        # A stream's own spins, and takes a core from those that decode.
        self.record().synchronize()


class _Kernel:
    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], /
    ) -> None:
        with told():
            self._kernel(grid, block, tuple(args))


@contextmanager
def _calls(device: Any) -> Iterator[None]:
    """Call the driver for a device, and raise its errors as ours."""
    ignore_captures()
    with device, told():
        yield


class _Allocation:
    """What the arrays in it keep alive; with the last of them it is given back."""

    def __init__(self, *, index: int, pointer: int, give_back: Callable[[int], None]) -> None:
        self.close = weakref.finalize(self, _give_back, index, pointer, give_back)
        # The driver takes it all back when the process ends, in whatever order.
        self.close.atexit = False


def _give_back(index: int, pointer: int, give_back: Callable[[int], None]) -> None:
    with _calls(cupy.cuda.Device(index)):
        give_back(pointer)


class _Shared:
    """One plain allocation: what a pool gives out is a part of one, whose handle it would share."""

    def __init__(self, *, array: Any, handle: bytes, close: Callable[[], object]) -> None:
        self.array = array
        self.handle = handle
        self._close = close

    def close(self) -> None:
        self._close()


def _shared(
    index: int, pointer: int, nbytes: int, handle: bytes, give_back: Callable[[int], None]
) -> _Shared:
    allocation = _Allocation(index=index, pointer=pointer, give_back=give_back)
    memory = cupy.cuda.UnownedMemory(pointer, nbytes, allocation, index)
    array = cupy.ndarray((nbytes,), cupy.uint8, cupy.cuda.MemoryPointer(memory, 0))
    return _Shared(array=array, handle=handle, close=allocation.close)


class CudaGpu:
    """One GPU."""

    xp = cupy

    def __init__(self, info: DeviceInfo) -> None:
        self.info = info
        self._device = cupy.cuda.Device(info.index)
        self._module = cache(self._compile)
        self._kernel = cache(self._find)
        self._own: WeakValueDictionary[bytes, _Shared] = WeakValueDictionary()
        """What this process shares: CUDA lets nobody open a handle of his own."""

    def stream(self) -> Stream:
        return CudaStream(self.info.index)

    def kernel(self, source: Path, name: str, **defines: int | float | str) -> Kernel:
        return self._kernel(source, name, tuple(sorted(defines.items())))

    def _find(self, source: Path, name: str, defines: tuple[tuple[str, object], ...]) -> Kernel:
        with _calls(self._device):
            return _Kernel(self._module(source, defines).get_function(name))

    def _compile(self, source: Path, defines: tuple[tuple[str, object], ...]) -> Any:
        options = ("-std=c++17", *(f"-D{key}={value}" for key, value in defines))
        code = f'{_PRELUDE.read_text()}\n#line 1 "{source.name}"\n{source.read_text()}'
        module = cupy.RawModule(code=code, options=options)
        module.compile()
        return module

    def address(self, array: DeviceArray) -> int:
        pointer: int = array.data.ptr
        return pointer

    def holds(self, array: DeviceArray | NDArray[Any]) -> bool:
        return isinstance(array, cupy.ndarray) and array.device.id == self.info.index

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        with _calls(self._device):
            memory = cupy.cuda.alloc_pinned_memory(nbytes)
        return np.frombuffer(memory, np.uint8, nbytes)

    def upload(self, host: NDArray[Any], device: DeviceArray) -> None:
        with told():
            device.data.copy_from_host_async(host.ctypes.data, host.nbytes)

    def download(self, device: DeviceArray, host: NDArray[Any]) -> None:
        with told():
            device.data.copy_to_host_async(host.ctypes.data, host.nbytes)

    def share(self, nbytes: int) -> SharedMemory:
        # What the pool keeps for later would be missing.
        self.trim()
        with _calls(self._device):
            pointer = runtime.malloc(-(-nbytes // _BLOCK_BYTES) * _BLOCK_BYTES)
            try:
                handle = bytes(runtime.ipcGetMemHandle(pointer))
            except runtime.CUDARuntimeError:
                runtime.free(pointer)
                raise
        shared = _shared(self.info.index, pointer, nbytes, handle, runtime.free)
        self._own[handle] = shared
        return shared

    def open_shared(self, handle: bytes, nbytes: int) -> SharedMemory:
        own = self._own.get(handle)
        if own is not None:
            return _Shared(array=own.array[:nbytes], handle=handle, close=lambda: None)
        with _calls(self._device):
            pointer = runtime.ipcOpenMemHandle(handle)
        return _shared(self.info.index, pointer, nbytes, handle, runtime.ipcCloseMemHandle)

    def trim(self) -> None:
        with _calls(self._device):
            cupy.get_default_memory_pool().free_all_blocks()
            cupy.get_default_pinned_memory_pool().free_all_blocks()

    @property
    def free_bytes(self) -> int:
        with _calls(self._device):
            free: int = runtime.memGetInfo()[0]
        return free


@cache
def gpu_at(info: DeviceInfo) -> CudaGpu:
    """Return the GPU that `devices` told of; the same object each time."""
    return CudaGpu(info)
