"""NVIDIA GPUs, by CuPy; imported only where one is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import cupy
import numpy as np
from cupy.cuda import runtime
from numpy.typing import NDArray

from visionmesh.gpu.gpu import (
    DeviceArray,
    DeviceInfo,
    Event,
    GpuError,
    GpuLostError,
    GpuMemoryError,
    Kernel,
    SharedMemory,
    Stream,
)

_PRELUDE = Path(__file__).with_name("cuda.h")
_NO_DRIVER = (runtime.cudaErrorNoDevice, runtime.cudaErrorInsufficientDriver)
_OUT_OF_MEMORY = runtime.cudaErrorMemoryAllocation
_LOST = frozenset({214, 219, 220, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 999})
"""Errors after which the runtime says that the process must be ended to use the device again:
uncorrectable memory, NVLink and containment errors, illegal addresses and instructions, timeouts,
destroyed contexts, failed launches, unknown ones (CUDA Runtime API, enum cudaError)."""


@contextmanager
def _told() -> Iterator[None]:
    """Raise the driver's errors as ours."""
    try:
        yield
    except cupy.cuda.memory.OutOfMemoryError as error:
        raise GpuMemoryError(str(error)) from error
    except (runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError) as error:
        if error.status == _OUT_OF_MEMORY:
            raise GpuMemoryError(str(error)) from error
        kind = GpuLostError if error.status in _LOST else GpuError
        raise kind(str(error)) from error


def devices() -> tuple[DeviceInfo, ...]:
    """Return the GPUs that this process sees; none where there is no driver."""
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        if error.status in _NO_DRIVER:
            return ()
        raise GpuError(str(error)) from error
    return tuple(_info(index) for index in range(count))


def _info(index: int) -> DeviceInfo:
    found = runtime.getDeviceProperties(index)
    name: bytes = found["name"]
    # A slice of a GPU has a UUID of its own, which the driver spells with another prefix.
    sliced = b" MIG " in name
    return DeviceInfo(
        kind="cuda",
        index=index,
        uuid=f"{'MIG' if sliced else 'GPU'}-{UUID(bytes=bytes(found['uuid']))}",
        name=name.decode(),
        memory_bytes=found["totalGlobalMem"],
        capability=(found["major"], found["minor"]),
    )


class _Event:
    def __init__(self, event: Any) -> None:
        self._event = event

    @property
    def done(self) -> bool:
        with _told():
            finished: bool = self._event.done
        return finished

    def synchronize(self) -> None:
        with _told():
            self._event.synchronize()

    @property
    def raw(self) -> Any:
        """CuPy's own."""
        return self._event


class CudaStream:
    """A stream that does not wait for the default one."""

    def __init__(self, index: int) -> None:
        self._device = cupy.cuda.Device(index)
        with self._device, _told():
            self.raw = cupy.cuda.Stream(non_blocking=True)
            """CuPy's own; its ``ptr`` is the ``cudaStream_t``."""

    def __enter__(self) -> Self:
        self._device.__enter__()
        self.raw.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.raw.__exit__(*error)
        self._device.__exit__(*error)

    def record(self) -> Event:
        with self._device, _told():
            event = cupy.cuda.Event(block=True, disable_timing=True)
            event.record(self.raw)
        return _Event(event)

    def wait(self, event: Event) -> None:
        assert isinstance(event, _Event)
        with _told():
            self.raw.wait_event(event.raw)

    def synchronize(self) -> None:
        with _told():
            self.raw.synchronize()


class _Shared:
    """One plain allocation: what a pool gives out is a part of one, whose handle it would share."""

    def __init__(self, *, index: int, pointer: int, nbytes: int, handle: bytes, own: bool) -> None:
        self._index, self._pointer, self._own = index, pointer, own
        self.handle = handle
        memory = cupy.cuda.UnownedMemory(pointer, nbytes, self, index)
        self.array = cupy.ndarray((nbytes,), cupy.uint8, cupy.cuda.MemoryPointer(memory, 0))

    def close(self) -> None:
        pointer, self._pointer = self._pointer, 0
        if pointer:
            with cupy.cuda.Device(self._index), _told():
                (runtime.free if self._own else runtime.ipcCloseMemHandle)(pointer)


class CudaGpu:
    """One GPU."""

    xp = cupy

    def __init__(self, info: DeviceInfo) -> None:
        self.info = info
        self._device = cupy.cuda.Device(info.index)
        self._module = cache(self._compile)

    def stream(self) -> Stream:
        return CudaStream(self.info.index)

    def kernel(self, source: Path, name: str, **defines: int | float | str) -> Kernel:
        with self._device, _told():
            found: Kernel = self._module(source, tuple(sorted(defines.items()))).get_function(name)
        return found

    def _compile(self, source: Path, defines: tuple[tuple[str, object], ...]) -> Any:
        options = ("-std=c++17", *(f"-D{key}={value}" for key, value in defines))
        code = f'{_PRELUDE.read_text()}\n#line 1 "{source.name}"\n{source.read_text()}'
        module = cupy.RawModule(code=code, options=options)
        module.compile()
        return module

    def address(self, array: DeviceArray) -> int:
        pointer: int = array.data.ptr
        return pointer

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        with self._device, _told():
            memory = cupy.cuda.alloc_pinned_memory(nbytes)
        return np.frombuffer(memory, np.uint8, nbytes)

    def upload(self, host: NDArray[Any], device: DeviceArray) -> None:
        with _told():
            device.data.copy_from_host_async(host.ctypes.data, host.nbytes)

    def download(self, device: DeviceArray, host: NDArray[Any]) -> None:
        with _told():
            device.data.copy_to_host_async(host.ctypes.data, host.nbytes)

    def share(self, nbytes: int) -> SharedMemory:
        with self._device, _told():
            pointer = runtime.malloc(nbytes)
            try:
                handle = bytes(runtime.ipcGetMemHandle(pointer))
            except runtime.CUDARuntimeError:
                runtime.free(pointer)
                raise
        return _Shared(
            index=self.info.index, pointer=pointer, nbytes=nbytes, handle=handle, own=True
        )

    def open_shared(self, handle: bytes, nbytes: int) -> SharedMemory:
        with self._device, _told():
            pointer = runtime.ipcOpenMemHandle(handle)
        return _Shared(
            index=self.info.index, pointer=pointer, nbytes=nbytes, handle=handle, own=False
        )

    @property
    def free_bytes(self) -> int:
        with self._device, _told():
            free: int = runtime.memGetInfo()[0]
        return free
