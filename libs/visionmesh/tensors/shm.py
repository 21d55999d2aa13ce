"""The writer's side of shared memory."""

from __future__ import annotations

from visionmesh.contracts import ShmLocation
from visionmesh.tensors.slots import SlabArena, SlabSlot


class ShmSlot(SlabSlot):
    """A run of slots in shared memory."""

    __slots__ = ("view",)

    device = None

    view: memoryview

    def commit(self) -> ShmLocation:
        """Publish what was written; the view must not be written to any more.

        May be called from any thread.
        """
        self.publish()
        return ShmLocation(
            arena=self._arena.name,
            slot=self.first,
            generation=self.generation,
            length=self.nbytes,
        )


class ShmArena(SlabArena[ShmSlot]):
    """A slab whose slots lie in its file."""

    def _slot(self, *, first: int, run: int, generation: int, nbytes: int) -> ShmSlot:
        slot = ShmSlot(arena=self, first=first, run=run, generation=generation, nbytes=nbytes)
        begin = first * self._slab.slot_bytes
        slot.view = self._slab.data[begin : begin + nbytes]
        return slot
