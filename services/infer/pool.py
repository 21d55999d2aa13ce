"""The models that this worker has loaded: load, warm, flip, drain, drop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from datetime import timedelta
from functools import partial
from itertools import groupby
from operator import itemgetter

from services.infer.alarms import Alarms
from services.infer.batcher import BatchedOutput
from services.infer.engines import Image
from services.infer.loaded import BatchListener, LoadedModel, build_of
from services.infer.loading import Loader
from services.infer.memory import NoRoom, NotReady
from services.infer.opening import close_all
from services.infer.room import UNBOUNDED, Bounds, Key, Room
from services.infer.states import States
from services.infer.turns import Elsewhere
from visionmesh.errors import ConfigurationError, Refused, Reject, Retry
from visionmesh.gpu import Gpu
from visionmesh.models.record import ModelRecord
from visionmesh.tasks import end

_DOWNLOAD_PAUSES = (timedelta(milliseconds=500), timedelta(seconds=2), timedelta(seconds=5))
"""Before a version is downloaded again."""

log = logging.getLogger(__name__)


class ModelPool:
    """Keeps loaded what gets traffic, loads the rest when an image asks for it.

    The ``loader`` is closed with it.
    ``on_change`` is called in the event loop when `versions`, `loaded` or `states` have changed;
    ``undecodable`` tells which versions of a model cannot be answered though they run;
    ``bounds`` hold for what all versions take of GPUs.
    """

    def __init__(
        self,
        *,
        loader: Loader,
        linger: timedelta = timedelta(seconds=30),
        on_batch: BatchListener | None = None,
        on_change: Callable[[], None] = lambda: None,
        undecodable: Callable[[str], Collection[int]] = lambda _: (),
        bounds: Bounds = UNBOUNDED,
    ) -> None:
        self._loader = loader
        self._linger = linger
        self._on_batch = on_batch
        self._on_change = on_change
        self._undecodable = undecodable
        self._records: dict[str, ModelRecord] = {}
        self._room = Room(
            loader=loader, evict=self._unload, on_left=self._try_crowded, bounds=bounds
        )
        self._serving = self._room.serving
        self._loading: dict[tuple[str, int, str], asyncio.Task[LoadedModel]] = {}
        self._trying: set[asyncio.Task[None]] = set()
        self._alarms: Alarms[Key] = Alarms()
        self.states = States()
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
        for name, keys in groupby(sorted(self._there), itemgetter(0)):
            versions = tuple(version for _, version in keys)
            found[name] = tuple(v for v in versions if not self._is_replaced(name, v)) or versions
        return found

    def _is_replaced(self, name: str, version: int) -> bool:
        model, record = self._serving.get((name, version)), self._records.get(name)
        return not (model is None or record is None or model.is_of(record))

    def is_current(self, name: str, version: int) -> bool:
        """Say whether the version runs as its record says; not while its replacement is loaded."""
        model, record = self._serving.get((name, version)), self._records.get(name)
        return model is None or record is None or model.build == build_of(record, version)

    async def apply(self, name: str, record: ModelRecord | None) -> None:
        """Make the pool what ``record`` says; return when its versions with traffic are ready.

        Until a new build is warm the old one serves. A version that cannot be loaded is noted in
        `states` and logged; what served before goes on, or is loaded in its place.
        """
        self.states.forget_failures(name)
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

    def _known(self, name: str) -> list[Key]:
        return [key for key in self._there if key[0] == name]

    @property
    def _there(self) -> set[Key]:
        return self._serving.keys() | self.states.asleep.keys()

    async def _try_to_load(self, record: ModelRecord, version: int) -> None:
        """Load a version; a download that fails is tried again, as no image may ask for it."""
        for pause in (*_DOWNLOAD_PAUSES, None):
            try:
                await self._load(record, version)
                return
            except (NoRoom, Elsewhere):
                return  # it wakes with an image once others are idle, or has no place here
            except (ConfigurationError, Refused, Retry) as error:
                if pause is None or not isinstance(error, Retry):
                    name = record.spec.name
                    log.error("version %d of %s is not loaded: %s", version, name, error)
                    return
            await asyncio.sleep(pause.total_seconds())

    async def _fall_back(self, record: ModelRecord) -> None:
        """If nothing is ready that should answer, load what answered before, else the newest."""
        name = record.spec.name
        for version in (*record.traffic.before, *sorted(record.versions, reverse=True)):
            if self._answering(name) or name in self.states.elsewhere:
                return
            if version in record.versions and (name, version) not in self.states.failures:
                await self._try_to_load(record, version)

    def _answering(self, name: str) -> set[int]:
        return {*self.versions.get(name, ())}.difference(self._undecodable(name))

    def gpu(self, name: str, version: int) -> Gpu | None:
        """Return the GPU that all engines of a version run on, if it is loaded and there is one."""
        return model.gpu if (model := self._serving.get((name, version))) else None

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
        with self._room.using((name, version)):
            model = self._serving.get((name, version))
            # Not loaded yet, or preprocess heard of a changed input before its engines are warm.
            if model is None or not model.takes(image):
                model = await self._on_demand(name, version)
            return await model.infer(image, urgent=urgent, home=home)

    async def close(self) -> None:
        """Run what is queued, then free everything."""
        await end([*self._trying, *self._loading.values()])
        for key in list(self._serving):
            self._drop(key)
        await self._room.close()

    async def _on_demand(self, name: str, version: int) -> LoadedModel:
        record = self._records.get(name)
        if record is None or version not in record.versions or record.parked:
            # ingest may have heard of a new version earlier than this worker, of an unload later.
            raise NotReady(
                f"Version {version} of model {name!r} is not known here, or was unloaded."
            )
        try:
            model = await self._load(record, version)
        except (Refused, Elsewhere) as error:
            raise NotReady(error.message) from error
        except ConfigurationError as error:
            raise Reject(error.code, error.message) from error
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

    def _try_crowded(self) -> None:
        """Load what found no room beside what it is to replace, now that another one left."""
        for name, version in self.states.crowded:
            task = asyncio.create_task(self._try_to_load(self._records[name], version))
            self._trying.add(task)
            task.add_done_callback(self._trying.discard)

    async def _exchange(self, record: ModelRecord, version: int) -> LoadedModel:
        key = (record.spec.name, version)
        try:
            loaded = await self._room.load(record, version, told=partial(self._tell, key))
        except (ConfigurationError, Refused, Retry) as error:
            self.states.note(key, error, serving=key in self._serving)
            self._on_change()
            raise
        finally:
            self.states.loading.pop(key, None)
        current = self._records.get(key[0])
        if current is None or build_of(current, version) != build_of(record, version):
            await close_all(loaded.engines)
            raise NotReady(f"Model {key[0]!r} was changed while it was loaded.")
        model = LoadedModel(record=record, version=version, loaded=loaded, on_batch=self._on_batch)
        self._drop(key)
        self._serving[key] = model
        log.info("version %d of %s is ready: %s", version, key[0], model.description)
        self._on_change()
        return model

    def _tell(self, key: Key, how_far: str) -> None:
        self.states.loading[key] = how_far
        self._on_change()

    def _unload(self, key: Key, why: str) -> None:
        """Drop a version; one that is needed wakes with its next image."""
        name, version = key
        needed = self._is_needed(self._records[name], version)
        self._drop(key)
        if needed:
            self.states.asleep[key] = why
        log.info("version %d of %s is unloaded: %s", version, name, why)
        self._on_change()

    def _drop(self, key: Key) -> None:
        """Take the model out of service; what it has in hand is finished first."""
        self.states.forget(key)
        self._alarms.cancel(key)
        self._room.leave(key)

    def _drop_when_idle(self, key: Key) -> None:
        """Drop a version that no image has asked for in a while, and one that was unloaded.

        One without traffic lingers for late images. One that is needed falls asleep after the
        model's ``keep_alive``, and wakes with the next image.
        """
        name, version = key
        record, model = self._records.get(name), self._serving.get(key)
        if record is None or record.parked:
            self._drop(key)
            return
        needed = self._is_needed(record, version)
        if model is None:
            if not needed:
                self.states.forget(key)
            return
        patience = record.spec.keep_alive if needed else self._linger
        if patience is None:
            return
        if (left := patience - model.idle) > timedelta(0):
            self._alarms.set(key, left, self._drop_when_idle)
            return
        self._unload(key, f"no image came for {patience.total_seconds():g} s")

    def _is_needed(self, record: ModelRecord, version: int) -> bool:
        answering = self._answering(record.spec.name)
        return version in (*record.wanted, *record.shares_among(answering))
