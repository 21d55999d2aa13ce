"""The one way in for whoever holds a reference."""

from __future__ import annotations

from pathlib import Path

from visionmesh.contracts import Location, ShmLocation
from visionmesh.tensors.arena import Reading
from visionmesh.tensors.inline import InlineReading
from visionmesh.tensors.shm_reader import ShmReader


class Reader:
    """Resolves the locations of all kinds of arenas; ``directory`` is that of shared memory."""

    def __init__(self, *, directory: Path) -> None:
        self._shm = ShmReader(directory=directory)

    def read(self, location: Location, body: memoryview) -> Reading:
        """Return the payload at ``location``, which may be in the ``body`` of its message.

        Raises
        ------
        Miss
            If it is not there any more.
        """
        if isinstance(location, ShmLocation):
            return self._shm.read(location)
        return InlineReading(location=location, body=body)
