"""The writer's side of a GPU's memory.

The words that writer and readers share (generations, lengths, leases) lie in a slab under /dev/shm
as for shared memory; in place of slots it tells the device, and the handle of the memory.

No event orders writer and reader: a slot is committed when the writer's stream is done with it, and
released when the reader's is. An event of a process that was killed would order nothing, and a
stream is waited for once per batch anyway.
"""

from __future__ import annotations

from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

from visionmesh.contracts import CudaLocation
from visionmesh.gpu import Gpu
from visionmesh.gpu.gpu import DeviceArray
from visionmesh.tensors.slots import DEFAULT_SLOT_BYTES, SlabArena, SlabSlot

HANDLE_BYTES = 64
"""Of the handle, which comes first; the device's UUID follows."""


class DeviceSlot(SlabSlot):
    """A run of slots in a GPU's memory."""

    __slots__ = ("device",)

    device: DeviceArray
    """``(nbytes,) uint8``, aligned to a page at least."""

    @property
    def view(self) -> memoryview:
        """Nothing that the host could write to: see `visionmesh.handover`."""
        raise TypeError("A slot of a GPU's memory has no view for the host.")

    def commit(self) -> CudaLocation:
        """Publish what was written; what wrote it must be finished. From any thread."""
        self.publish()
        return CudaLocation(
            kind="cuda",
            arena=self._arena.name,
            slot=self.first,
            generation=self.generation,
            length=self.nbytes,
        )


class DeviceArena(SlabArena[DeviceSlot]):
    """A slab whose slots lie in a GPU's memory.

    Nothing may be enqueued on a slot any more when it is discarded, either.

    Raises
    ------
    GpuError
        If the device has not so much memory, or cannot share it here.
    """

    def __init__(
        self,
        *,
        gpu: Gpu,
        directory: Path,
        name: str,
        size: int,
        slot_bytes: int = DEFAULT_SLOT_BYTES,
        lease: timedelta,
    ) -> None:
        self.gpu = gpu
        self._memory = gpu.share(size)
        with ExitStack() as undo:
            undo.callback(self._memory.close)
            super().__init__(
                directory=directory,
                name=name,
                size=size,
                slot_bytes=slot_bytes,
                lease=lease,
                elsewhere=self._memory.handle + gpu.info.uuid.encode(),
            )
            undo.pop_all()

    def _slot(self, *, first: int, run: int, generation: int, nbytes: int) -> DeviceSlot:
        slot = DeviceSlot(arena=self, first=first, run=run, generation=generation, nbytes=nbytes)
        begin = first * self._slab.slot_bytes
        slot.device = self._memory.array[begin : begin + nbytes]
        return slot

    def close(self) -> None:
        """Remove the slab and free the memory."""
        # CUDA leaves open what readers see that still map it: first they must find no owner.
        super().close()
        self._memory.close()
