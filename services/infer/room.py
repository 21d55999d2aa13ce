"""Room for versions in the memory of GPUs: what each may take, and who gives way to whom."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace

from services.infer.loaded import LoadedModel
from services.infer.loading import Loaded, Loader, close_all
from services.infer.memory import NoRoom, present
from visionmesh.errors import Code, ConfigurationError
from visionmesh.gpu import gpu_of
from visionmesh.gpu.opening import is_gpu
from visionmesh.models.record import ModelRecord
from visionmesh.models.spec import ModelSpec

Key = tuple[str, int]
"""A model's name and the number of a version."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What all versions of a worker may take of each GPU: a number of bytes, and a share of it."""

    nbytes: int | None = None
    share: float = 1.0
    on_evict: Callable[[str], None] = lambda _: None
    """Called with the name of a model of which a version gave way."""

    def of(self, gpu: str) -> int | None:
        """Return the bytes of the GPU with this UUID; `None`: as many as there are."""
        if self.nbytes is None and self.share == 1:
            return None
        most = int(gpu_of(gpu).info.memory_bytes * self.share)
        return most if self.nbytes is None else min(most, self.nbytes)


UNBOUNDED = Bounds()


class Room:
    """Loads versions, and has idle ones give way where a GPU's memory does not hold all.

    ``serving`` is what is loaded, and ``closing`` frees the memory of what was; ``evict`` makes the
    one the other for the reason it is told. What an image is in or waits for is never evicted, and
    of the rest the version goes first whose last image is the longest ago.
    """

    def __init__(
        self,
        *,
        loader: Loader,
        serving: Mapping[Key, LoadedModel],
        closing: Set[asyncio.Task[None]],
        evict: Callable[[Key, str], None],
        bounds: Bounds,
    ) -> None:
        self._loader = loader
        self._serving = serving
        self._closing = closing
        self._evict = evict
        self._bounds = bounds
        self._used: Counter[Key] = Counter()
        self._alone = asyncio.Lock()
        """One that is being loaded cannot give way: the next one waits until it could."""

    @contextmanager
    def using(self, key: Key) -> Iterator[None]:
        """Let no other version take the place of this one meanwhile."""
        self._used[key] += 1
        try:
            yield
        finally:
            self._used[key] -= 1
            if not self._used[key]:
                del self._used[key]

    async def load(self, record: ModelRecord, version: int) -> Loaded:
        """Return a version's engines, with what they take within all bounds.

        Raises
        ------
        ConfigurationError
            (model_invalid) if it takes more than ``model.yaml`` says, or than there could ever be;
            and as `Loader.load`.
        Retry
            (model_not_ready) if what is in use leaves too little; and as `Loader.load`.
        """
        spec = record.spec_of(version)
        if not any(is_gpu(instance.device) for instance in spec.instances):
            return await self._loader.load(record, version)
        async with self._alone:
            said = await asyncio.to_thread(promised, spec)
            return await self._load(record, version, said)

    async def _load(self, record: ModelRecord, version: int, said: Mapping[str, int]) -> Loaded:
        key = (record.spec.name, version)
        await self._admit(key, said)
        loaded = await self._try(key, record)
        try:
            _hold_to(said, loaded.device_memory, key[0])
            await self._admit(key, {**loaded.device_memory, **said})
        except BaseException:
            close_all(loaded.engines)
            raise
        return replace(loaded, reserved=said)

    async def _try(self, key: Key, record: ModelRecord) -> Loaded:
        """Load a version once there is room for it, if need be for its smaller batches only."""
        while True:
            try:
                loaded = await self._loader.load(record, key[1])
            except NoRoom as error:
                await self._make_room(key, error.gpus, error.message)
                continue
            if not loaded.short or not (self._closing or self._idle(key, loaded.short)):
                return loaded
            close_all(loaded.engines)
            await self._make_room(key, loaded.short, "there is room for small batches only")

    async def _admit(self, key: Key, wanted: Mapping[str, int]) -> None:
        """Return once the bounds allow a version ``wanted`` bytes of each GPU."""
        for gpu, nbytes in wanted.items():
            limit = self._bounds.of(gpu)
            while limit is not None and (held := self._held(gpu)) + nbytes > limit:
                why = f"it takes {nbytes} bytes of {gpu}, others {held}, of {limit} in all"
                await self._make_room(key, {gpu}, why)

    def _held(self, gpu: str) -> int:
        return sum(model.room.get(gpu, 0) for model in self._serving.values())

    async def _make_room(self, key: Key, gpus: Collection[str], why: str) -> None:
        """Return once there is more room on ``gpus``, if need be of a version that gives way."""
        if not self._closing:
            self._evict_one(key, gpus, why)
        await asyncio.wait(self._closing)
        for gpu in gpus:
            await asyncio.to_thread(gpu_of(gpu).trim)

    def _evict_one(self, key: Key, gpus: Collection[str], why: str) -> None:
        """Evict the version on ``gpus`` that has been idle the longest; raise if there is none."""
        name = f"Version {key[1]} of {key[0]!r}"
        if not self._on(gpus):
            raise ConfigurationError(Code.MODEL_INVALID, f"{name} is too large for its GPU: {why}.")
        idle = self._idle(key, gpus)
        if not idle:
            raise NoRoom(f"{name} has to wait until others are idle: {why}.", gpus=gpus)
        longest = max(idle, key=lambda other: self._serving[other].idle)
        self._bounds.on_evict(longest[0])
        self._evict(longest, f"it gave way to version {key[1]} of {key[0]}")

    def _on(self, gpus: Collection[str]) -> list[Key]:
        """Return the versions that have memory of one of ``gpus``."""
        return [
            other
            for other, model in self._serving.items()
            if not model.room.keys().isdisjoint(gpus)
        ]

    def _idle(self, key: Key, gpus: Collection[str]) -> list[Key]:
        """Return those of them that may give way to a version."""
        return [other for other in self._on(gpus) if not self._used[other] and other != key]


def promised(spec: ModelSpec) -> dict[str, int]:
    """Return what a model is said to take of each GPU of this node, by UUID."""
    said: Counter[str] = Counter()
    for instance in spec.instances:
        if instance.memory is None or instance.fallback:
            continue
        if (gpu := present(instance.device)) is not None:
            said[gpu.info.uuid] += instance.memory
    return dict(said)


def _hold_to(said: Mapping[str, int], taken: Mapping[str, int], model: str) -> None:
    for gpu, nbytes in said.items():
        if taken.get(gpu, 0) > nbytes:
            raise ConfigurationError(
                Code.MODEL_INVALID,
                f"{model}/model.yaml: instances: memory: {nbytes} bytes are said, but its "
                f"engines took {taken[gpu]} of {gpu}.",
            )
