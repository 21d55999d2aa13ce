"""The models that this worker has loaded: load, warm, flip, drain, drop."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from services.infer.batcher import Batch, BatchedOutput, Batcher
from services.infer.cores import usable_cores
from services.infer.engines import Engine, Image, open_engines
from visionmesh.errors import Code, ConfigurationError, Miss, Refused, Reject, Retry
from visionmesh.models.record import ModelRecord
from visionmesh.models.registry import Registry
from visionmesh.models.spec import ModelSpec
from visionmesh.tasks import end

_NOT_YET = timedelta(milliseconds=500)
"""When to deliver an image again whose model cannot be loaded now."""

log = logging.getLogger(__name__)

BatchListener = Callable[["LoadedModel", Batch], None]


class LoadedModel:
    """One version of a model with its engines, warm and ready."""

    def __init__(
        self,
        *,
        record: ModelRecord,
        version: int,
        engines: tuple[Engine, ...],
        on_batch: BatchListener | None = None,
    ) -> None:
        spec = record.spec
        self.name = spec.name
        self.version = version
        self.build = _build(record, version)
        self.devices = tuple(sorted({instance.device for instance in spec.instances}))
        self.engines = len(engines)
        self.since = datetime.now(UTC)
        self.last_used = time.monotonic()
        self._shape = (spec.input.height, spec.input.width, spec.input.channels)
        self._batcher = Batcher(
            engines=engines,
            max_size=spec.batching.max_size,
            max_delay=spec.batching.max_delay,
            on_batch=(lambda batch: on_batch(self, batch)) if on_batch else None,
        )

    @property
    def queued(self) -> int:
        """Images that wait for an engine."""
        return self._batcher.queued

    def takes(self, image: Image) -> bool:
        """Say whether the image has the shape of the network's input."""
        return image.shape == self._shape

    async def infer(self, image: Image) -> BatchedOutput:
        """Run one image, (H, W, C) uint8; raise `Miss` if it was made for another input size."""
        self.last_used = time.monotonic()
        if not self.takes(image):
            raise Miss(
                f"The image is {image.shape}, but model {self.name!r} takes {self._shape} now."
            )
        return await self._batcher.submit(image)

    async def close(self) -> None:
        """Run what is queued, then free the engines."""
        await self._batcher.close()


class ModelPool:
    """Keeps loaded what gets traffic, loads the rest when an image asks for it."""

    def __init__(
        self,
        *,
        registry: Registry,
        directory: Path,
        linger: timedelta = timedelta(seconds=30),
        on_batch: BatchListener | None = None,
    ) -> None:
        self._registry = registry
        self._directory = directory
        self._linger = linger.total_seconds()
        self._on_batch = on_batch
        self._records: dict[str, ModelRecord] = {}
        self._serving: dict[tuple[str, int], LoadedModel] = {}
        self._loading: dict[tuple[str, int, str], asyncio.Task[LoadedModel]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.failures: dict[tuple[str, int], str] = {}
        """Why a version that should be loaded is not."""

    @property
    def loaded(self) -> tuple[LoadedModel, ...]:
        """What is ready now, by name and version."""
        return tuple(model for _, model in sorted(self._serving.items()))

    async def apply(self, name: str, record: ModelRecord | None) -> None:
        """Make the pool what ``record`` says; return when its versions with traffic are ready.

        Until a new build is warm the old one serves. A version that cannot be loaded is noted in
        `failures` and logged; what served before goes on.
        """
        for key in [key for key in self.failures if key[0] == name]:
            del self.failures[key]
        if record is None:
            self._records.pop(name, None)
            for key in [key for key in self._serving if key[0] == name]:
                self._drop(key)
            return
        self._records[name] = record
        for version in record.wanted:
            try:
                await self._load(record, version)
            except (ConfigurationError, Refused, Retry) as error:
                log.error("version %d of model %s is not loaded: %s", version, name, error)
        for key in [key for key in self._serving if key[0] == name]:
            self._drop_when_idle(key)

    async def infer(self, name: str, version: int, image: Image) -> BatchedOutput:
        """Run one image on a version of a model, loading that first if need be.

        Raises
        ------
        Reject
            (model_invalid, model_failed) if the version cannot be loaded or fails on the image.
        Miss
            If the image was made for another input size.
        Retry
            (model_not_ready) if the version is not known here, or cannot be loaded now.
        """
        model = self._serving.get((name, version))
        if model is None or not model.takes(image):
            # Not loaded yet, or preprocess heard of a changed input before its engines are warm.
            model = await self._on_demand(name, version)
        return await model.infer(image)

    async def close(self) -> None:
        """Run what is queued, then free everything."""
        await end(self._loading.values())
        for key in list(self._serving):
            self._drop(key)
        await asyncio.gather(*self._closing)

    async def _on_demand(self, name: str, version: int) -> LoadedModel:
        record = self._records.get(name)
        if record is None or version not in record.versions:
            # ingest may have heard of a new version earlier than this worker.
            raise Retry(
                f"Version {version} of model {name!r} is not known here.",
                delay=_NOT_YET,
                code=Code.MODEL_NOT_READY,
            )
        try:
            model = await self._load(record, version)
        except ConfigurationError as error:
            raise Reject(error.code, error.message) from error
        except Refused as error:
            raise Retry(error.message, delay=_NOT_YET, code=Code.MODEL_NOT_READY) from error
        self._drop_when_idle((name, version))
        return model

    async def _load(self, record: ModelRecord, version: int) -> LoadedModel:
        """Return the version as ``record`` describes it, loaded once however many ask for it."""
        build = _build(record, version)
        serving = self._serving.get((record.spec.name, version))
        if serving and serving.build == build:
            return serving
        key = (record.spec.name, version, build)
        if key not in self._loading:
            self._loading[key] = asyncio.create_task(self._exchange(record, version))
            self._loading[key].add_done_callback(lambda _: self._loading.pop(key))
        return await asyncio.shield(self._loading[key])

    async def _exchange(self, record: ModelRecord, version: int) -> LoadedModel:
        key = (record.spec.name, version)
        try:
            sha256 = record.version(version).sha256
            weights = await self._registry.fetch(sha256, directory=self._directory)
            engines = await _warm_engines(weights, record.spec)
        except (ConfigurationError, Refused, Retry) as error:
            self.failures[key] = error.message
            raise
        current = self._records.get(key[0])
        if current is None or _build(current, version) != _build(record, version):
            raise Retry(f"Model {key[0]!r} was changed while it was loaded.", delay=_NOT_YET)
        model = LoadedModel(
            record=record, version=version, engines=engines, on_batch=self._on_batch
        )
        self._drop(key)
        self._serving[key] = model
        self.failures.pop(key, None)
        log.info("version %d of model %s is ready, %d engines", version, key[0], len(engines))
        return model

    def _drop(self, key: tuple[str, int]) -> None:
        """Take the model out of service; what it has in hand is finished first."""
        self.failures.pop(key, None)
        model = self._serving.pop(key, None)
        if model is not None:
            task = asyncio.create_task(model.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _drop_when_idle(self, key: tuple[str, int]) -> None:
        """Drop a version without traffic when no late image has asked for it for a while."""
        name, version = key
        record, model = self._records.get(name), self._serving.get(key)
        if record is None or model is None or version in record.wanted:
            return
        left = model.last_used + self._linger - time.monotonic()
        if left > 0:
            asyncio.get_running_loop().call_later(left, self._drop_when_idle, key)
        else:
            self._drop(key)


def _build(record: ModelRecord, version: int) -> str:
    """Return one digest of what a version's engines are made of; empty if it is not there."""
    if version not in record.versions:
        return ""
    parts = record.spec.model_dump_json(include={"input", "batching", "instances"})
    return hashlib.sha256((parts + record.versions[version].sha256).encode()).hexdigest()


async def _warm_engines(weights: Path, spec: ModelSpec) -> tuple[Engine, ...]:
    """Load all instances and warm them, all at the same time."""
    engines: list[Engine] = []
    for instance in spec.instances:
        count = instance.count or max(1, usable_cores() // instance.threads)
        opened = asyncio.to_thread(open_engines, weights, spec, instance, count=count)
        engines.extend(await opened)
    await asyncio.gather(*(asyncio.to_thread(engine.warm) for engine in engines))
    return tuple(engines)
