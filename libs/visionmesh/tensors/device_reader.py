"""The readers' side of a GPU's memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from visionmesh.contracts import CudaLocation
from visionmesh.errors import ConfigurationError, Miss
from visionmesh.gpu import Gpu, GpuError, SharedMemory, Stream, gpu_of
from visionmesh.gpu.failures import device_failures, lost
from visionmesh.gpu.gpu import DeviceArray, GpuLostError, GpuMemoryError
from visionmesh.tensors.device import HANDLE_BYTES
from visionmesh.tensors.mapped import MappedSlabs, SlabReading
from visionmesh.tensors.slab import Slab


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
    and the reason; from then on every reference to it misses.
    """

    def __init__(self, *, directory: Path, on_refused: Callable[[str, str], None]) -> None:
        self._slabs = MappedSlabs(directory=directory, elsewhere=True)
        self._on_refused = on_refused
        self._refused: set[str] = set()
        self._mappings: WeakKeyDictionary[Slab, _Mapping] = WeakKeyDictionary()

    def read(self, location: CudaLocation) -> DeviceReading:
        """Return the payload at ``location``.

        Raises
        ------
        Miss
            If the arena is gone or its owner dead, its slot no longer holds this payload, or its
            memory cannot be mapped here.
        """
        slab = self._slabs.find(location)
        if slab.orphan:
            raise Miss(f"The owner of the arena {location.arena} is dead.")
        mapping = self._mappings.get(slab)
        if mapping is None:
            mapping = self._mappings[slab] = self._map(slab)
        return DeviceReading(slab=slab, mapping=mapping, location=location)

    def _map(self, slab: Slab) -> _Mapping:
        handle, uuid = slab.elsewhere[:HANDLE_BYTES], slab.elsewhere[HANDLE_BYTES:].decode()
        if uuid in self._refused:
            raise Miss(f"The memory of {uuid} cannot be mapped by this worker.")
        try:
            gpu = gpu_of(uuid)
            memory = gpu.open_shared(handle, slab.slots * slab.slot_bytes)
            return _Mapping(gpu=gpu, memory=memory)
        except GpuLostError as error:
            raise lost(error) from error
        except (GpuError, ConfigurationError) as error:
            # A device that is full will not be so for ever.
            if not (slab.orphan or isinstance(error, GpuMemoryError)):
                self._refused.add(uuid)
                self._on_refused(uuid, str(error))
            raise Miss(f"The memory of {uuid} cannot be mapped: {error}") from error
