"""What CUDA's driver tells: the devices of this process, and what went wrong; by CuPy."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

import cupy
from cupy.cuda import runtime

from visionmesh.gpu.gpu import DeviceInfo, GpuError, GpuLostError, GpuMemoryError

_MODULE_RELEASE = Path("/sys/module/nvidia/version")
_OUT_OF_MEMORY = 2
_INSUFFICIENT_DRIVER = 35
_NO_DEVICE = 100
_LOST = frozenset(
    {214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911, 999}
)
"""Errors after which the runtime says that the process must be ended to use the device again:
uncorrectable memory, NVLink and contained errors, illegal addresses and instructions, timeouts,
destroyed contexts, failed launches, a server (MPS) or a device outside that failed, unknown ones
(CUDA Runtime API, enum cudaError)."""
_UUID_BYTES = 16
_THREAD_LOCAL = 1
"""Of threads to which it is nothing that others capture (CUDA Driver API, CUstreamCaptureMode)."""


@contextmanager
def told() -> Iterator[None]:
    """Raise the driver's errors as ours."""
    try:
        yield
    except cupy.cuda.memory.OutOfMemoryError as error:
        raise GpuMemoryError(str(error)) from error
    except cupy.cuda.compiler.CompileException as error:
        raise GpuError(str(error)) from error
    except (runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError) as error:
        if error.status == _OUT_OF_MEMORY:
            raise GpuMemoryError(str(error)) from error
        kind = GpuLostError if error.status in _LOST else GpuError
        raise kind(str(error)) from error


@cache
def devices() -> tuple[DeviceInfo, ...]:
    """Return the GPUs that this process sees; none where there is no driver."""
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        if error.status in (_INSUFFICIENT_DRIVER, _NO_DEVICE):
            return ()
        raise GpuError(str(error)) from error
    with told():
        return tuple(_info(index) for index in range(count))


def _info(index: int) -> DeviceInfo:
    found = runtime.getDeviceProperties(index)
    name: bytes = found["name"]
    # A slice of a GPU has a UUID of its own, which the driver spells with another prefix.
    sliced = b" MIG " in name
    return DeviceInfo(
        kind="cuda",
        index=index,
        uuid=f"{'MIG' if sliced else 'GPU'}-{_uuid(index)}",
        name=name.decode(),
        memory_bytes=found["totalGlobalMem"],
        capability=(found["major"], found["minor"]),
        driver=_driver(),
    )


def _driver() -> str:
    """Return the kernel module's release, or that of CUDA which the driver was made for."""
    try:
        return _MODULE_RELEASE.read_text().strip()
    except OSError:
        return f"CUDA {runtime.driverGetVersion()}"


def _uuid(index: int) -> UUID:
    """Ask the driver: CuPy's own ends at the first byte of zero, and is a slice's GPU's."""
    driver, device = _library(), ctypes.c_int()
    found = (ctypes.c_ubyte * _UUID_BYTES)()
    for status in (
        driver.cuInit(0),
        driver.cuDeviceGet(ctypes.byref(device), index),
        driver.cuDeviceGetUuid_v2(found, device),
    ):
        if status:
            raise GpuError(f"The driver does not tell the UUID of device {index}: error {status}.")
    return UUID(bytes=bytes(found))


def ignore_captures() -> None:
    """Let this thread allocate and free while another one captures a graph.

    ONNX Runtime forbids it to all threads (cudaStreamCaptureModeGlobal): those that serve would
    fail meanwhile, and the capture with them. It holds for the thread, as long as that lives.
    """
    mode = ctypes.c_int(_THREAD_LOCAL)
    status = _library().cuThreadExchangeStreamCaptureMode(ctypes.byref(mode))
    if status:
        raise GpuError(f"The driver does not let a thread ignore captures: error {status}.")


@cache
def _library() -> Any:
    return ctypes.CDLL("libcuda.so.1")
