"""What the mesh asks of a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

DeviceArray = Any
"""An array of `Gpu.xp` in the device's memory: a ``cupy.ndarray``, or a NumPy one if emulated."""


class GpuError(Exception):
    """The device, or what was to be done on it, failed; the text is the driver's reason."""


class GpuMemoryError(GpuError):
    """The device has too little free memory for it."""


class GpuLostError(GpuError):
    """The context is broken: nothing works on this device in this process any more."""


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """One device as this process sees it."""

    kind: str
    """``cuda`` or ``emulated``."""
    index: int
    uuid: str
    """As the driver spells it, ``GPU-…`` or ``MIG-…``; it names the same device in any process."""
    name: str
    memory_bytes: int
    capability: tuple[int, int]
    """The compute capability: (9, 0) is sm_90."""
    driver: str = ""
    """The driver's release, as far as it tells."""


class Event(Protocol):
    """A place in the work of a stream."""

    def synchronize(self) -> None:
        """Block until all that was before it is finished."""


class Stream(Protocol):
    """Work in its order; inside its ``with`` block the thread's copies and kernels go here.

    What arrays raise in there leaves it as a `GpuError`.
    """

    @property
    def pointer(self) -> int:
        """The ``cudaStream_t``, for other libraries that enqueue work; 0 if emulated."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def record(self) -> Event:
        """Return an event behind all that was enqueued so far."""

    def wait(self, event: Event) -> None:
        """Let what is enqueued from now on begin after ``event``."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return what enqueues here, at once and as often as it is called, what ``work`` enqueues.

        ``work`` is called within the stream, and nothing of it runs yet. It uses the same memory
        each time, waits for nothing, and has been run before, so that it allocates nothing either.

        Raises
        ------
        GpuError
            If some of it cannot be captured; the stream can be used as before.
        """

    def synchronize(self) -> None:
        """Block until everything enqueued is finished; raise `GpuError` if some of it failed."""


class Kernel(Protocol):
    """A compiled kernel."""

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], /
    ) -> None:
        """Enqueue it on the current stream; ``args`` are arrays of the device and NumPy scalars."""


class SharedMemory(Protocol):
    """Memory of a device that several processes see."""

    @property
    def array(self) -> DeviceArray:
        """All of it, ``(nbytes,) uint8``."""

    @property
    def handle(self) -> bytes:
        """64 bytes by which another process on this host opens it."""

    def close(self) -> None:
        """Free it, or let go of it; its arrays must not be used any more.

        Without this it is let go of with the last of its arrays.
        """


class Gpu(Protocol):
    """One device; its methods may be called from any thread."""

    @property
    def info(self) -> DeviceInfo: ...

    @property
    def xp(self) -> Any:
        """The module whose arrays lie on the device: ``cupy``, or ``numpy`` if emulated."""

    def stream(self) -> Stream:
        """Return a new stream, independent of all others."""

    def kernel(self, source: Path, name: str, **defines: int | float | str) -> Kernel:
        """Return the kernel ``name`` of a source file, with ``defines`` as macros.

        Compiled at first and then kept. Sources are of the language that CUDA and C share; what
        they may use besides is in ``cuda.h`` and ``emulated.h`` of this package.
        """

    def address(self, array: DeviceArray) -> int:
        """Return where ``array`` begins, for a kernel that takes a table of pointers."""

    def holds(self, array: DeviceArray | NDArray[Any]) -> bool:
        """Say whether kernels on this device can read ``array`` where it lies.

        Of the emulated device that is what it shares with others: all else is the host's.
        """

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        """Return page-locked memory of the host, ``(nbytes,) uint8``: copies need no detour."""

    def upload(self, host: NDArray[Any], device: DeviceArray) -> None:
        """Enqueue a copy between contiguous arrays of equal size; ``host`` must last that long."""

    def download(self, device: DeviceArray, host: NDArray[Any]) -> None:
        """Enqueue a copy between contiguous arrays of equal size; ``host`` must last that long."""

    def share(self, nbytes: int) -> SharedMemory:
        """Allocate memory that other processes can open.

        Raises
        ------
        GpuMemoryError
            If there is not so much.
        GpuError
            If this device cannot share memory here.
        """

    def open_shared(self, handle: bytes, nbytes: int) -> SharedMemory:
        """Map what a process, this one too, shares; raise `GpuError` if it is gone or cannot be."""

    def trim(self) -> None:
        """Give back to the device what freed arrays have left in this process for the next ones."""

    @property
    def free_bytes(self) -> int:
        """Of the device's memory, whoever uses the rest."""
