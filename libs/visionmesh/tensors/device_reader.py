"""The readers' side of a GPU's memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from visionmesh.contracts import CudaLocation
from visionmesh.errors import ConfigurationError, Miss, Retry
from visionmesh.gpu import Gpu, GpuError, SharedMemory, Stream, gpu_of
from visionmesh.gpu.failures import device_failures
from visionmesh.gpu.gpu import DeviceArray, GpuLostError, GpuMemoryError
from visionmesh.tensors.device import HANDLE_BYTES
from visionmesh.tensors.mapped import MappedSlabs, SlabReading
from visionmesh.tensors.slab import Slab

_DYING = timedelta(seconds=2)
"""How long a process may take to end, once its memory is gone."""
_LOOK = timedelta(milliseconds=10)


class _Mapping:
    """The memory of one arena, as this process sees it."""

    def __init__(self, *, gpu: Gpu, memory: SharedMemory) -> None:
        self.gpu = gpu
        self.memory = memory
        self.stream: Stream = gpu.stream()
        """For what is copied home."""


class DeviceReading(SlabReading):
    """One payload in the memory of a GPU.

    What was enqueued on it must be finished before `check`, and before `release`.
    """

    __slots__ = ("_home", "_mapping", "device")

    def __init__(self, *, slab: Slab, mapping: _Mapping, location: CudaLocation) -> None:
        super().__init__(slab=slab, location=location)
        self._mapping = mapping
        self._home: memoryview | None = None
        begin = location.slot * slab.slot_bytes
        self.device: DeviceArray = mapping.memory.array[begin : begin + location.length]

    @property
    def view(self) -> memoryview:
        """A copy in the host's memory, made when it is first asked for."""
        if self._home is None:
            home, mapping = np.empty(self.device.nbytes, np.uint8), self._mapping
            with device_failures(), mapping.stream as stream:
                mapping.gpu.download(self.device, home)
                stream.synchronize()
            self._home = home.data.toreadonly()
        return self._home

    def check(self) -> None:
        """Raise `Miss` if the bytes may have changed since the reading began."""
        super().check()
        if self._slab.orphan:
            # Nobody promises that its memory outlives it, whatever the generation says.
            raise Miss("The owner of the memory died while the payload was being read.")


class DeviceReader:
    """Resolves references to device memory; mappings last as long as their slabs and readings.

    ``on_refused`` is called once for a device whose memory cannot be mapped here, with its UUID
    and the reason, in whatever thread that was found; every reference to it misses from then on.
    """

    def __init__(self, *, directory: Path, on_refused: Callable[[str, str], None]) -> None:
        self._slabs = MappedSlabs(directory=directory, elsewhere=True)
        self._on_refused = on_refused
        self._refused: set[str] = set()
        self._mappings: WeakKeyDictionary[Slab, _Mapping] = WeakKeyDictionary()
        self._turn = asyncio.Lock()

    async def prepare(self, location: CudaLocation) -> None:
        """Do in a thread what the first `read` from an arena would hold the event loop up with.

        Raises
        ------
        Miss, Retry, Fatal
            As `read` does.
        """
        slab = self._find(location)
        if slab not in self._mappings:
            async with self._turn:
                if slab not in self._mappings:
                    self._mappings[slab] = await asyncio.to_thread(self._map, slab, location)

    def read(self, location: CudaLocation) -> DeviceReading:
        """Return the payload at ``location``; the first one of an arena takes milliseconds.

        Raises
        ------
        Miss
            If the arena is gone or its owner dead, its slot no longer holds this payload, or its
            memory cannot be mapped here.
        Retry
            If the device has no memory left to map it with (mesh_full).
        Fatal
            If the device is lost to this process.
        """
        slab = self._find(location)
        mapping = self._mappings.get(slab)
        if mapping is None:
            mapping = self._mappings[slab] = self._map(slab, location)
        return DeviceReading(slab=slab, mapping=mapping, location=location)

    def forget_gone(self) -> None:
        """Let go of the memory of those who are dead, once nobody reads there any more."""
        self._slabs.forget_gone()
        for slab in [slab for slab in self._mappings if slab.orphan]:
            del self._mappings[slab]

    def _find(self, location: CudaLocation) -> Slab:
        slab = self._slabs.find(location)
        if slab.orphan:
            raise Miss(f"The owner of the arena {location.arena} is dead.")
        return slab

    def _map(self, slab: Slab, location: CudaLocation) -> _Mapping:
        try:
            return self._open(slab)
        except Retry:
            # The image is computed again: nobody else would release this payload.
            SlabReading(slab=slab, location=location).release()
            raise

    def _open(self, slab: Slab) -> _Mapping:
        handle, uuid = slab.elsewhere[:HANDLE_BYTES], slab.elsewhere[HANDLE_BYTES:].decode()
        if uuid in self._refused:
            raise Miss(f"The memory of {uuid} cannot be mapped by this worker.")
        with device_failures():
            try:
                gpu = gpu_of(uuid)
                memory = gpu.open_shared(handle, slab.slots * slab.slot_bytes)
                return _Mapping(gpu=gpu, memory=memory)
            except (GpuLostError, GpuMemoryError):
                raise
            except (GpuError, ConfigurationError) as error:
                if not _dies(slab):
                    self._refused.add(uuid)
                    self._on_refused(uuid, str(error))
                raise Miss(f"The memory of {uuid} cannot be mapped: {error}") from error


def _dies(slab: Slab) -> bool:
    """Say whether the owner is dead, or is about to be.

    Linux promises no order in which a process that ends loses what it holds: its memory may be
    gone for a moment before its locks are.
    """
    end = time.monotonic() + _DYING.total_seconds()
    while not slab.orphan:
        if time.monotonic() > end:
            return False
        time.sleep(_LOOK.total_seconds())
    return True
