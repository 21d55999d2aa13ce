"""A GPU for those who have none: the same kernels, compiled for the CPU, and memory of the host.

It shows whether kernels, arenas and services are right, and nothing about speed. What is enqueued
runs at once. Memory that processes share is gone with the process that made it, as a GPU's is.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import re
import subprocess
import tempfile
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from shutil import which
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from visionmesh.errors import Code, ConfigurationError
from visionmesh.gpu.gpu import (
    DeviceArray,
    DeviceInfo,
    Event,
    GpuError,
    GpuMemoryError,
    Kernel,
    SharedMemory,
    Stream,
)

_PRELUDE = Path(__file__).with_name("emulated.h")
_KERNEL = re.compile(r"^KERNEL\s+(\w+)\s*\(([^)]*)\)", re.MULTILINE)
_HANDLE_BYTES = 64
_MEMORY_BYTES = 4 << 30
_DIMENSIONS = 3


class _Done:
    """An event of work that was done at once."""

    def synchronize(self) -> None:
        """Do nothing."""


class _Stream:
    pointer = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""

    def record(self) -> Event:
        return _Done()

    def wait(self, event: Event) -> None:
        """Do nothing."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        return work

    def synchronize(self) -> None:
        """Do nothing."""


class _Shared:
    """A file without a name, which others find through its owner's descriptors."""

    def __init__(self, *, array: DeviceArray, handle: bytes, close: Callable[[], object]) -> None:
        self.array = array
        self.handle = handle
        self._close = close

    def close(self) -> None:
        self._close()


class EmulatedGpu:
    """One device of the host's memory; ``cc`` compiles its kernels."""

    xp = np

    def __init__(self, *, index: int = 0) -> None:
        self.info = DeviceInfo(
            kind="emulated",
            index=index,
            uuid=f"EMULATED-{index}",
            name="emulated",
            memory_bytes=_MEMORY_BYTES,
            capability=(9, 0),
        )
        self._shared = 0
        self._ends: dict[int, int] = {}
        """Where that which is shared ends, by where it begins."""
        self._library = cache(_compile)

    def stream(self) -> Stream:
        return _Stream()

    def kernel(self, source: Path, name: str, **defines: int | float | str) -> Kernel:
        library = self._library(source, tuple(sorted(defines.items())))
        launch = library[f"launch_{name}"]
        launch.restype = None

        def call(grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], /) -> None:
            shape = (ctypes.c_uint * (2 * _DIMENSIONS))(*_three(grid), *_three(block))
            launch(shape, *map(_argument, args))

        return call

    def address(self, array: DeviceArray) -> int:
        pointer: int = array.ctypes.data
        return pointer

    def holds(self, array: DeviceArray | NDArray[Any]) -> bool:
        address = self.address(array)
        return any(begin <= address < end for begin, end in tuple(self._ends.items()))

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        return np.zeros(nbytes, np.uint8)

    def upload(self, host: NDArray[Any], device: DeviceArray) -> None:
        _copy(host, device)

    def download(self, device: DeviceArray, host: NDArray[Any]) -> None:
        _copy(device, host)

    def share(self, nbytes: int) -> SharedMemory:
        if nbytes > self.free_bytes:
            raise GpuMemoryError(
                f"{nbytes} bytes are more than the {self.free_bytes} that are free"
            )
        descriptor = os.memfd_create("visionmesh-emulated")
        os.truncate(descriptor, nbytes)
        handle = f"/proc/{os.getpid()}/fd/{descriptor}".encode().ljust(_HANDLE_BYTES, b"\0")
        self._shared += nbytes
        return self._map(descriptor, nbytes, handle, own=True)

    def open_shared(self, handle: bytes, nbytes: int) -> SharedMemory:
        try:
            descriptor = os.open(handle.rstrip(b"\0").decode(), os.O_RDWR)
        except OSError as error:
            raise GpuError(f"the memory is gone ({error.strerror})") from error
        if os.fstat(descriptor).st_size < nbytes:
            os.close(descriptor)
            raise GpuError("the handle names something else")
        return self._map(descriptor, nbytes, handle, own=False)

    def _map(self, descriptor: int, nbytes: int, handle: bytes, *, own: bool) -> _Shared:
        mapped = mmap.mmap(descriptor, nbytes)
        array = np.frombuffer(mapped, np.uint8)
        begin = self.address(array)
        self._ends[begin] = begin + nbytes
        close = weakref.finalize(mapped, self._let_go, begin, descriptor, nbytes if own else 0)
        close.atexit = False
        return _Shared(array=array, handle=handle, close=close)

    def _let_go(self, begin: int, descriptor: int, freed: int) -> None:
        os.close(descriptor)
        del self._ends[begin]
        self._shared -= freed

    def trim(self) -> None:
        """Do nothing: freed arrays leave nothing."""

    @property
    def free_bytes(self) -> int:
        return self.info.memory_bytes - self._shared


def _copy(source: NDArray[Any], target: NDArray[Any]) -> None:
    target.reshape(-1).view(np.uint8)[:] = source.reshape(-1).view(np.uint8)


def _three(sides: tuple[int, ...]) -> tuple[int, ...]:
    return (*sides, 1, 1)[:_DIMENSIONS]


def _argument(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return ctypes.c_void_p(value.ctypes.data)
    return np.ctypeslib.as_ctypes_type(value.dtype)(value.item())


def _compile(source: Path, defines: tuple[tuple[str, object], ...]) -> ctypes.CDLL:
    """Return the library of the kernels in ``source``; a user's processes compile it once."""
    compiler = which("cc")
    if compiler is None:
        raise ConfigurationError(Code.DEVICE_MISSING, "An emulated GPU wants a C compiler (cc).")
    text = source.read_text()
    code = "\n".join(
        (
            _PRELUDE.read_text(),
            f'#line 1 "{source.name}"',
            text,
            *map(_launcher, _KERNEL.findall(text)),
        )
    )
    flags = [
        "-std=gnu11",
        "-O2",
        "-ffp-contract=off",
        "-fPIC",
        "-shared",
        *(f"-D{key}={value}" for key, value in defines),
    ]
    digest = hashlib.sha256("\0".join((code, *flags)).encode()).hexdigest()
    folder = Path(tempfile.gettempdir()) / f"visionmesh-kernels-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{digest}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / "kernels.so"
            command = [compiler, "-x", "c", *flags, "-", "-o", str(made), "-lm"]
            told = subprocess.run(command, input=code, capture_output=True, text=True, check=False)
            if told.returncode:
                raise GpuError(f"{source.name} does not compile: {told.stderr}")
            made.replace(library)
    return ctypes.CDLL(str(library))


_LAUNCHER = """
void launch_{name}(const unsigned *shape, {parameters}) {{
    gridDim = (struct emulated_index){{shape[0], shape[1], shape[2]}};
    blockDim = (struct emulated_index){{shape[3], shape[4], shape[5]}};
    for (blockIdx.z = 0; blockIdx.z < gridDim.z; blockIdx.z++)
    for (blockIdx.y = 0; blockIdx.y < gridDim.y; blockIdx.y++)
    for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++)
    for (threadIdx.z = 0; threadIdx.z < blockDim.z; threadIdx.z++)
    for (threadIdx.y = 0; threadIdx.y < blockDim.y; threadIdx.y++)
    for (threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++)
        {name}({names});
}}
"""


def _launcher(kernel: tuple[str, str]) -> str:
    """Return a C function that runs all threads of a kernel, one after the other."""
    name, parameters = kernel
    names = ", ".join(re.findall(r"(\w+)\s*(?:,|$)", parameters))
    return _LAUNCHER.format(name=name, parameters=parameters, names=names)
