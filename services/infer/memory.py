"""What versions take of a GPU's memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import timedelta

from visionmesh.errors import Code, ConfigurationError, Retry
from visionmesh.gpu import Gpu, GpuError, open_gpu
from visionmesh.gpu.opening import is_gpu

_NOT_YET = timedelta(milliseconds=500)
"""When to deliver an image again whose model cannot run now."""


class NotReady(Retry):
    """A version cannot run now; its images are to come again a little later."""

    def __init__(self, message: str) -> None:
        super().__init__(message, delay=_NOT_YET, code=Code.MODEL_NOT_READY)


class NoRoom(NotReady):
    """A GPU has too little free memory for a version: others may give way, or it has to wait."""

    def __init__(self, message: str, *, gpus: Collection[str]) -> None:
        super().__init__(message)
        self.gpus = frozenset(gpus)
        """The UUIDs of those that it may be."""


class Meter:
    """Tells by how much the free memory of GPUs shrinks from when it is made.

    Whatever any process takes meanwhile counts: the driver tells no more of a process where MIG or
    a container hides it.
    """

    def __init__(self, devices: Iterable[str]) -> None:
        self._before: dict[str, tuple[Gpu, int]] = {}
        for device in devices:
            if (gpu := present(device)) is not None:
                # What was freed and is kept for later would be taken, and yet not seen.
                gpu.trim()
                self._before[gpu.info.uuid] = (gpu, gpu.free_bytes)

    @property
    def gpus(self) -> frozenset[str]:
        """The UUIDs of the devices that are GPUs of this node."""
        return frozenset(self._before)

    def taken(self) -> dict[str, int]:
        """Return how many bytes of each GPU were taken."""
        return {uuid: max(free - gpu.free_bytes, 0) for uuid, (gpu, free) in self._before.items()}


def present(device: str) -> Gpu | None:
    """Return the GPU that ``device`` names; `None` if it is none, or is not to be had here."""
    if not is_gpu(device):
        return None
    try:
        return open_gpu(device)
    except (ConfigurationError, GpuError):
        return None
