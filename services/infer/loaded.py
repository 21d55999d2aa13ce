"""One version of a model, ready to run images."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

import numpy as np

from services.infer.batcher import Batch, BatchedOutput, Batcher
from services.infer.engines import Image
from services.infer.loading import Loaded
from services.infer.pixels import PixelWriter
from visionmesh.errors import Miss
from visionmesh.gpu import Gpu, open_gpu
from visionmesh.gpu.opening import is_gpu
from visionmesh.models.record import ModelRecord
from visionmesh.nodes import LoadedVersion

BatchListener = Callable[["LoadedModel", Batch], None]


class LoadedModel:
    """One version of a model with its engines, warm and ready."""

    def __init__(
        self,
        *,
        record: ModelRecord,
        version: int,
        loaded: Loaded,
        on_batch: BatchListener | None = None,
    ) -> None:
        spec = record.spec_of(version)
        self.name = spec.name
        self.version = version
        self.sha256 = record.version(version).sha256
        self.build = build_of(record, version)
        self.engines = len(loaded.engines)
        self.way = loaded.way
        self.memory = loaded.memory
        """By how many bytes the process grew for it."""
        self.device_memory = loaded.device_memory
        """How many bytes of each GPU it took, by the GPU's UUID."""
        taken = loaded.device_memory if loaded.exact else dict.fromkeys(loaded.device_memory, 0)
        self.room = {**taken, **loaded.reserved}
        """How many bytes of each GPU others cannot have."""
        self.gpu = _only_gpu(loaded.way.devices)
        """On which all its engines run; `None` if they run on several devices, or on the CPU."""
        self.since = datetime.now(UTC)
        self.last_used = time.monotonic()
        self._writer = PixelWriter(spec.input)
        self._batcher = Batcher(
            engines=loaded.engines,
            units=loaded.way.units,
            max_size=spec.batching.max_size,
            max_delay=spec.batching.max_delay,
            on_batch=(lambda batch: on_batch(self, batch)) if on_batch else None,
        )

    @property
    def queued(self) -> int:
        """Images that wait for an engine."""
        return self._batcher.queued

    @property
    def idle(self) -> timedelta:
        """How long ago its last image came, or it was loaded."""
        return timedelta(seconds=time.monotonic() - self.last_used)

    @property
    def description(self) -> str:
        """What runs it, for the log."""
        way = self.way
        return f"{self.engines} x {way.engine} in {way.precision}, as {way.because}"

    def is_of(self, record: ModelRecord) -> bool:
        """Say whether ``record`` has these weights under this number."""
        return record.version(self.version).sha256 == self.sha256

    def told(self) -> LoadedVersion:
        """Return what the mesh is told of it."""
        return LoadedVersion(
            model=self.name,
            version=self.version,
            devices=self.way.devices,
            engine=self.way.engine,
            precision=self.way.precision,
            copies=self.engines,
            memory_bytes=self.memory,
            device_memory=dict(self.device_memory),
            since=self.since,
            why=self.way.why,
        )

    def takes(self, image: Image) -> bool:
        """Say whether the image is pixels of the input's size, or the network's own input."""
        return self._writer.takes(image)

    async def infer(
        self, image: Image, *, urgent: bool = False, home: bool = True
    ) -> BatchedOutput:
        """Run one image; raise `Miss` if it was made for another input, or lies elsewhere."""
        self.last_used = time.monotonic()
        if not self.takes(image):
            raise Miss(
                f"Model {self.name!r} does not take an image of {image.dtype} {image.shape}."
            )
        if not isinstance(image, np.ndarray) and not (self.gpu and self.gpu.holds(image)):
            raise Miss(f"Model {self.name!r} has left the GPU where the image is.")
        return await self._batcher.submit(image, urgent=urgent, home=home)

    async def close(self) -> None:
        """Run what is queued, then free the engines."""
        await self._batcher.close()


def _only_gpu(devices: Iterable[str]) -> Gpu | None:
    gpus = {open_gpu(device) if is_gpu(device) else None for device in devices}
    return gpus.pop() if len(gpus) == 1 else None


def build_of(record: ModelRecord, version: int) -> str:
    """Return one digest of what a version's engines are made of; empty if it is not there."""
    if version not in record.versions:
        return ""
    parts = record.spec_of(version).model_dump_json(include={"input", "batching", "instances"})
    stored = record.versions[version]
    variants = stored.variants.model_dump_json() if stored.variants else ""
    program = stored.program.sha256 if stored.program else ""
    return hashlib.sha256((parts + stored.sha256 + variants + program).encode()).hexdigest()
