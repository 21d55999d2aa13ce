"""The models that this worker has loaded: load, warm, flip, drain, drop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from datetime import timedelta
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from services.infer.batcher import BatchedOutput
from services.infer.engines import Image
from services.infer.loaded import BatchListener, LoadedModel, build_of
from services.infer.loading import Loader, close_all
from visionmesh.errors import (
    Code,
    ConfigurationError,
    Refused,
    Reject,
    Retry,
    VisionmeshError,
)
from visionmesh.gpu import Gpu
from visionmesh.models.record import ModelRecord
from visionmesh.models.registry import Registry
from visionmesh.tasks import end

_NOT_YET = timedelta(milliseconds=500)
"""When to deliver an image again whose model cannot be loaded now."""
_DOWNLOAD_PAUSES = (timedelta(milliseconds=500), timedelta(seconds=2), timedelta(seconds=5))
"""Before a version is downloaded again."""

log = logging.getLogger(__name__)


class ModelPool:
    """Keeps loaded what gets traffic, loads the rest when an image asks for it.

    ``on_change`` is called in the event loop when `versions`, `loaded` or `failures` have changed;
    ``undecodable`` tells which versions of a model cannot be answered though they run.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        directory: Path,
        linger: timedelta = timedelta(seconds=30),
        on_batch: BatchListener | None = None,
        on_change: Callable[[], None] = lambda: None,
        undecodable: Callable[[str], Collection[int]] = lambda _: (),
    ) -> None:
        self._loader = Loader(registry=registry, directory=directory)
        self._linger = linger
        self._on_batch = on_batch
        self._on_change = on_change
        self._undecodable = undecodable
        self._records: dict[str, ModelRecord] = {}
        self._serving: dict[tuple[str, int], LoadedModel] = {}
        self._loading: dict[tuple[str, int, str], asyncio.Task[LoadedModel]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._asleep: set[tuple[str, int]] = set()
        self._timers: dict[tuple[str, int], asyncio.TimerHandle] = {}
        self.failures: dict[tuple[str, int], str] = {}
        """Why a version that should be loaded is not."""
        self.applied: dict[str, int] = {}
        """The revision of the record, by model, that everything else tells of."""

    @property
    def loaded(self) -> tuple[LoadedModel, ...]:
        """What is ready now, by name and version."""
        return tuple(model for _, model in sorted(self._serving.items()))

    @property
    def versions(self) -> dict[str, tuple[int, ...]]:
        """What images can be given to: loaded and warm, or asleep until the next image comes.

        Weights that were replaced under their number are told only if nothing else is there.
        """
        found: dict[str, tuple[int, ...]] = {}
        for name, keys in groupby(sorted(self._serving.keys() | self._asleep), itemgetter(0)):
            versions = tuple(version for _, version in keys)
            current = tuple(v for v in versions if not self._is_replaced(name, v))
            found[name] = current or versions
        return found

    def _is_replaced(self, name: str, version: int) -> bool:
        model, record = self._serving.get((name, version)), self._records.get(name)
        if model is None or record is None:
            return False
        return record.version(version).sha256 != model.sha256

    def is_current(self, name: str, version: int) -> bool:
        """Say whether the version runs as its record says; not while its replacement is loaded."""
        model, record = self._serving.get((name, version)), self._records.get(name)
        return model is None or record is None or model.build == build_of(record, version)

    async def apply(self, name: str, record: ModelRecord | None) -> None:
        """Make the pool what ``record`` says; return when its versions with traffic are ready.

        Until a new build is warm the old one serves. A version that cannot be loaded is noted in
        `failures` and logged; what served before goes on, or is loaded in its place.
        """
        for key in [key for key in self.failures if key[0] == name]:
            del self.failures[key]
        for key in self._known(name):
            if record is None or key[1] not in record.versions:
                self._drop(key)
        self.applied.pop(name, None)
        old = self._records.pop(name, None)
        if record is not None:
            self._records[name] = record
            for version in record.wanted:
                await self._try_to_load(record, version)
            if not record.parked:
                await self._fall_back(record)
            for key in self._known(name):
                self._drop_when_idle(key)
        if old is not None:
            used = (known.objects for known in self._records.values())
            await self._loader.forget(old.objects.difference(*used))
        if record is not None:
            self.applied[name] = record.revision
        self._on_change()

    def _known(self, name: str) -> list[tuple[str, int]]:
        return [key for key in self._serving.keys() | self._asleep if key[0] == name]

    async def _try_to_load(self, record: ModelRecord, version: int) -> None:
        """Load a version; a download that fails is tried again, as no image may ask for it."""
        for pause in (*_DOWNLOAD_PAUSES, None):
            try:
                await self._load(record, version)
                return
            except (ConfigurationError, Refused) as error:
                _report(record, version, error)
                return
            except Retry as error:
                if pause is None:
                    _report(record, version, error)
                else:
                    await asyncio.sleep(pause.total_seconds())

    async def _fall_back(self, record: ModelRecord) -> None:
        """If nothing is ready that should answer, load what answered before, else the newest."""
        name = record.spec.name
        for version in (*record.traffic.before, *sorted(record.versions, reverse=True)):
            if self._answering(name):
                return
            if version in record.versions and (name, version) not in self.failures:
                await self._try_to_load(record, version)

    def _answering(self, name: str) -> set[int]:
        return {*self.versions.get(name, ())}.difference(self._undecodable(name))

    def gpu(self, name: str, version: int) -> Gpu | None:
        """Return the GPU that all engines of a version run on, if it is loaded and there is one."""
        model = self._serving.get((name, version))
        return None if model is None else model.gpu

    async def infer(
        self, name: str, version: int, image: Image, *, urgent: bool = False, home: bool = True
    ) -> BatchedOutput:
        """Run one image on a version of a model, loading that first if need be.

        Unless they are wanted ``home``, the outputs may stay in the memory of its `gpu`.

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
        return await model.infer(image, urgent=urgent, home=home)

    async def close(self) -> None:
        """Run what is queued, then free everything."""
        await end(self._loading.values())
        for key in list(self._serving):
            self._drop(key)
        await asyncio.gather(*self._closing)
        self._loader.close()

    async def _on_demand(self, name: str, version: int) -> LoadedModel:
        record = self._records.get(name)
        if record is None or version not in record.versions or record.parked:
            # ingest may have heard of a new version earlier than this worker, of an unload later.
            raise Retry(
                f"Version {version} of model {name!r} is not known here, or was unloaded.",
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
        build = build_of(record, version)
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
            loaded = await self._loader.load(record, version)
        except (ConfigurationError, Refused, Retry) as error:
            self.failures[key] = error.message
            self._asleep.discard(key)
            self._on_change()
            raise
        current = self._records.get(key[0])
        if current is None or build_of(current, version) != build_of(record, version):
            close_all(loaded.engines)
            raise Retry(f"Model {key[0]!r} was changed while it was loaded.", delay=_NOT_YET)
        model = LoadedModel(record=record, version=version, loaded=loaded, on_batch=self._on_batch)
        self._drop(key)
        self._serving[key] = model
        way = loaded.way
        log.info(
            "version %d of %s is ready: %d x %s in %s, as %s",
            version, key[0], model.engines, way.engine, way.precision, way.why,
        )  # fmt: skip
        self._on_change()
        return model

    def _drop(self, key: tuple[str, int]) -> None:
        """Take the model out of service; what it has in hand is finished first."""
        self.failures.pop(key, None)
        self._asleep.discard(key)
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()
        model = self._serving.pop(key, None)
        if model is not None:
            task = asyncio.create_task(model.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _drop_when_idle(self, key: tuple[str, int]) -> None:
        """Drop a version that no image has asked for in a while, and one that was unloaded.

        One without traffic lingers for late images. One that is needed falls asleep after the
        model's ``keep_alive``, and wakes with the next image.
        """
        name, version = key
        record, model = self._records.get(name), self._serving.get(key)
        if record is None:
            return
        if record.parked:
            self._drop(key)
            return
        needed = version in (*record.wanted, *record.shares_among(self._answering(name)))
        if model is None:
            if not needed:
                self._asleep.discard(key)
            return
        patience = record.spec.keep_alive if needed else self._linger
        if patience is None:
            return
        left = model.last_used + patience.total_seconds() - time.monotonic()
        if left > 0:
            if (timer := self._timers.pop(key, None)) is not None:
                timer.cancel()
            loop = asyncio.get_running_loop()
            self._timers[key] = loop.call_later(left, self._drop_when_idle, key)
            return
        self._drop(key)
        if needed:
            self._asleep.add(key)
        log.info("version %d of %s is unloaded", version, name)
        self._on_change()


def _report(record: ModelRecord, version: int, error: VisionmeshError) -> None:
    log.error("version %d of %s is not loaded: %s", version, record.spec.name, error)
