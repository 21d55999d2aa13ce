"""What versions take of a GPU's memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import timedelta

from visionmesh.errors import Code, ConfigurationError, Retry
from visionmesh.gpu import Gpu, GpuError, open_gpu
from visionmesh.gpu.opening import is_gpu

_NOT_YET = timedelta(milliseconds=500)
"""When to deliver an image again whose model cannot run now."""
_EMPTY = 0.9
"""Share of a GPU's memory that is free if nobody but this node's workers uses it: each has a
context there, and an arena."""


class NotReady(Retry):
    """A version cannot run now; its images are to come again a little later."""

    def __init__(self, message: str) -> None:
        super().__init__(message, delay=_NOT_YET, code=Code.MODEL_NOT_READY)


class NoRoom(NotReady):
    """A GPU has too little free memory for a version, and nothing gives way: it has to wait."""


class TooLarge(ConfigurationError):
    """A version takes more of a GPU than it says, than it may, or than there is."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.MODEL_INVALID, message)


class Full(Exception):
    """A version did not find as much free memory as it needs."""

    def __init__(self, reason: str, *, gpus: Collection[str], empty: bool = False) -> None:
        super().__init__(reason)
        self.gpus = frozenset(gpus)
        """The UUIDs of the GPUs that it may be."""
        self.empty = empty
        """No other process had much of them."""


class Meter:
    """Tells by how much the free memory of GPUs shrinks from when it is made, which may block.

    Whatever any process takes meanwhile counts: the driver tells no more of a process where MIG or
    a container hides it.
    """

    def __init__(self, devices: Iterable[str]) -> None:
        found = ((device, present(device)) for device in devices)
        self._gpus = {device: gpu for device, gpu in found if gpu is not None}
        self._before: dict[Gpu, int] = {}
        for gpu in set(self._gpus.values()):
            # What was freed and is kept for later would be taken, and yet not seen.
            gpu.trim()
            self._before[gpu] = gpu.free_bytes

    def gpus(self, devices: Iterable[str]) -> frozenset[str]:
        """Return the UUIDs of those ``devices`` that are GPUs of this node."""
        return frozenset(self._gpus[device].info.uuid for device in devices if device in self._gpus)

    def taken(self) -> dict[str, int]:
        """Return how many bytes of each GPU were taken."""
        return {gpu.info.uuid: max(free - gpu.free_bytes, 0) for gpu, free in self._before.items()}

    def full(self, device: str, reason: str) -> Full:
        """Return what is raised when a version finds no memory on ``device``."""
        gpu = self._gpus.get(device)
        if gpu is None:
            return Full(reason, gpus=())
        empty = self._before[gpu] >= _EMPTY * gpu.info.memory_bytes
        return Full(reason, gpus={gpu.info.uuid}, empty=empty)


def present(device: str) -> Gpu | None:
    """Return the GPU that ``device`` names; `None` if it is none, or is not to be had here."""
    if not is_gpu(device):
        return None
    try:
        return open_gpu(device)
    except (ConfigurationError, GpuError):
        return None
