"""The one way in for whoever holds a reference."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from visionmesh.contracts import CudaLocation, Location, ShmLocation
from visionmesh.tensors.arena import Reading
from visionmesh.tensors.device_reader import DeviceReader
from visionmesh.tensors.inline import InlineReading
from visionmesh.tensors.shm_reader import ShmReader

log = logging.getLogger(__name__)


def say_so(uuid: str, why: str) -> None:
    """Log that the memory of a GPU cannot be mapped by this process."""
    log.warning("cannot map the memory of %s that other processes share: %s", uuid, why)


class Reader:
    """Resolves the locations of all kinds of arenas; ``directory`` is that of shared memory.

    ``on_refused`` is told once of each GPU whose memory cannot be mapped here, and why; in whatever
    thread that was found.
    """

    def __init__(self, *, directory: Path, on_refused: Callable[[str, str], None] = say_so) -> None:
        self._shm = ShmReader(directory=directory)
        self._device = DeviceReader(directory=directory, on_refused=on_refused)

    async def prepare(self, location: CudaLocation) -> None:
        """See `DeviceReader.prepare`."""
        await self._device.prepare(location)

    def read(self, location: Location, body: memoryview) -> Reading:
        """Return the payload at ``location``, which may be in the ``body`` of its message.

        Raises
        ------
        Miss
            If it is not there any more.
        Retry, Fatal
            Of a GPU's memory: see `DeviceReader.read`.
        """
        if isinstance(location, ShmLocation):
            return self._shm.read(location)
        if isinstance(location, CudaLocation):
            return self._device.read(location)
        return InlineReading(location=location, body=body)

    def forget_gone(self) -> None:
        """Let go of what workers have left that ended: as long as it is mapped, it takes room."""
        self._shm.forget_gone()
        self._device.forget_gone()
