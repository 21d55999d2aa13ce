"""The readers' side of shared memory."""

from __future__ import annotations

from pathlib import Path

from visionmesh.contracts import ShmLocation
from visionmesh.tensors.mapped import MappedSlabs, SlabReading
from visionmesh.tensors.slab import Slab


class ShmReading(SlabReading):
    """One payload where its writer put it."""

    __slots__ = ("view",)

    device = None

    def __init__(self, *, slab: Slab, location: ShmLocation) -> None:
        super().__init__(slab=slab, location=location)
        begin = location.slot * slab.slot_bytes
        self.view = slab.data[begin : begin + location.length].toreadonly()


class ShmReader:
    """Resolves references to the arenas in ``directory``; mappings are kept for the next time."""

    def __init__(self, *, directory: Path) -> None:
        self._slabs = MappedSlabs(directory=directory, elsewhere=False)

    def read(self, location: ShmLocation) -> ShmReading:
        """Return the payload at ``location``.

        Raises
        ------
        Miss
            If the arena is gone, or its slot no longer holds this payload.
        """
        return ShmReading(slab=self._slabs.find(location), location=location)

    def forget_gone(self) -> None:
        """Let go of the arenas that were removed."""
        self._slabs.forget_gone()
