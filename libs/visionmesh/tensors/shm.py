"""The writer's side of shared memory."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from visionmesh.contracts import ShmLocation
from visionmesh.tensors.slots import DEFAULT_SLOT_BYTES, SlabArena, SlabSlot


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

    def __init__(
        self,
        *,
        directory: Path,
        name: str,
        size: int,
        slot_bytes: int = DEFAULT_SLOT_BYTES,
        lease: timedelta,
    ) -> None:
        super().__init__(
            directory=directory, name=name, size=size, slot_bytes=slot_bytes, lease=lease
        )

    def _slot(self, *, first: int, run: int, generation: int, nbytes: int) -> ShmSlot:
        slot = ShmSlot(arena=self, first=first, run=run, generation=generation, nbytes=nbytes)
        begin = first * self._slab.slot_bytes
        slot.view = self._slab.data[begin : begin + nbytes]
        return slot
