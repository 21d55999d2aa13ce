"""The readers' side of a slab: mappings that are kept, and what a reference must satisfy."""

from __future__ import annotations

from pathlib import Path

from visionmesh.contracts import CudaLocation, ShmLocation
from visionmesh.errors import Miss
from visionmesh.tensors.slab import Slab, is_at, open_slab


class SlabReading:
    """One payload in a slab, by its generation."""

    __slots__ = ("_generation", "_slab", "_slot")

    def __init__(self, *, slab: Slab, location: ShmLocation | CudaLocation) -> None:
        self._slab = slab
        self._slot = location.slot
        self._generation = location.generation

    def check(self) -> None:
        """Raise `Miss` if the bytes may have changed since the reading began."""
        if self._slab.generations[self._slot] != self._generation:
            raise Miss("The arena needed the room while the payload was being read.")

    def release(self) -> None:
        """Let the writer use the room again; a second release changes nothing."""
        if self._slab.generations[self._slot] == self._generation:
            self._slab.released[self._slot] = self._generation


class MappedSlabs:
    """The slabs in ``directory`` that were read from; mappings are kept for the next time.

    Only those count whose slots are in their file, or only those that have them ``elsewhere``.
    """

    def __init__(self, *, directory: Path, elsewhere: bool) -> None:
        self._directory = directory
        self._elsewhere = elsewhere
        self._slabs: dict[str, Slab] = {}

    def find(self, location: ShmLocation | CudaLocation) -> Slab:
        """Return the slab that holds the payload at ``location``.

        Raises
        ------
        Miss
            If the arena is gone, or its slot no longer holds this payload.
        """
        slab = self._slabs.get(location.arena)
        if slab is None or not _holds(slab, location):
            slab = self._look_again(location.arena)
            if slab is None:
                raise Miss(f"There is no arena {location.arena!r} on this host any more.")
            if not _holds(slab, location):
                raise Miss(f"The arena {location.arena} has given the room to something else.")
        return slab

    def forget_gone(self) -> None:
        """Forget the arenas that were removed or replaced."""
        # Their memory goes back to the system with the last view of it.
        self._slabs = {
            name: slab
            for name, slab in self._slabs.items()
            if is_at(self._directory / name, slab.inode)
        }

    def _look_again(self, arena: str) -> Slab | None:
        self.forget_gone()
        if arena not in self._slabs and "/" not in arena:
            slab = open_slab(self._directory / arena)
            if slab is not None and bool(slab.elsewhere) == self._elsewhere:
                self._slabs[arena] = slab
        return self._slabs.get(arena)


def _holds(slab: Slab, location: ShmLocation | CudaLocation) -> bool:
    """Say whether the payload lies there; nothing of the reference is taken on trust."""
    slot, generation = location.slot, location.generation
    return (
        0 <= slot < slab.slots
        and generation > 0
        and slab.generations[slot] == generation
        and slab.released[slot] != generation
        and slab.lengths[slot] == location.length
    )
