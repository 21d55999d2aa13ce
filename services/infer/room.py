"""Room for versions in the memory of GPUs: what each may take, and who gives way to whom."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from services.infer.loaded import LoadedModel
from services.infer.loading import Loaded, Loader, Terms
from services.infer.memory import Full, NoRoom, TooLarge, present
from services.infer.turns import take_turns
from visionmesh.gpu import gpu_of
from visionmesh.models.record import ModelRecord, VersionRecord
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

    def of(self, gpu: str) -> int:
        """Return the bytes of the GPU with this UUID."""
        most = int(gpu_of(gpu).info.memory_bytes * self.share)
        return most if self.nbytes is None else min(most, self.nbytes)


UNBOUNDED = Bounds()


class Room:
    """Loads versions, and has idle ones give way where a GPU's memory does not hold all.

    ``evict`` has one `leave` for the reason it is told. What an image is in or waits for is never
    evicted, and of the rest the version goes first whose last image is the longest ago. ``on_left``
    is called when the memory is free of one that left.
    """

    def __init__(
        self,
        *,
        loader: Loader,
        evict: Callable[[Key, str], None],
        on_left: Callable[[], None] = lambda: None,
        bounds: Bounds,
    ) -> None:
        self._loader = loader
        self._evict = evict
        self._on_left = on_left
        self._bounds = bounds
        self.serving: dict[Key, LoadedModel] = {}
        """What is loaded."""
        self._closing: set[asyncio.Task[None]] = set()
        self._used: Counter[Key] = Counter()

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

    def leave(self, key: Key) -> None:
        """Take a version out of service; what it has in hand is finished first."""
        if (model := self.serving.pop(key, None)) is not None:
            task = asyncio.create_task(model.close())
            self._closing.add(task)
            task.add_done_callback(self._left)

    def _left(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        self._on_left()

    async def close(self) -> None:
        """Return when the memory is free of all that left."""
        await asyncio.gather(*self._closing)
        self._loader.close()

    async def load(
        self, record: ModelRecord, version: int, *, told: Callable[[str], None]
    ) -> Loaded:
        """Return a version's engines, with what they take within all bounds.

        Where a GPU has no room, and none can be made, the instances that stand in run it. ``told``
        is called with how far what takes long is.

        Raises
        ------
        Elsewhere
            If the model is for other nodes only.
        ConfigurationError
            (model_invalid) if it takes more than ``model.yaml`` says, or than there could ever be;
            and as `Loader.load`.
        NoRoom
            If what is in use, or another process, leaves too little.
        Refused, Retry
            As `Loader.load`.
        """
        key, stored = (record.spec.name, version), record.version(version)
        load = partial(self._load, key=key, stored=stored, told=told)
        return await take_turns(record.spec_of(version), load)

    async def _load(
        self, spec: ModelSpec, *, key: Key, stored: VersionRecord, told: Callable[[str], None]
    ) -> Loaded:
        said = await asyncio.to_thread(promised, spec)
        terms = Terms(
            admit=partial(self._admit, key, said),
            accept=partial(self._accept, key, said),
            told=told,
        )
        while True:
            try:
                return await self._loader.load(spec, stored, terms)
            except Full as full:
                await self._make_room(key, full)

    async def _accept(self, key: Key, said: Mapping[str, int], loaded: Loaded) -> Loaded:
        """Let a version be served if its size is right, and as few as there can be gave way."""
        if loaded.short and (self._closing or self._idle(key, loaded.short)):
            raise Full("there is room for small batches only", gpus=loaded.short)
        if loaded.exact:
            _hold_to(said, loaded.device_memory, key[0])
            await self._admit(key, {**loaded.device_memory, **said})
        return replace(loaded, reserved=said)

    async def _admit(self, key: Key, wanted: Mapping[str, int]) -> None:
        """Return once the bounds allow a version ``wanted`` bytes of each GPU."""
        for gpu, nbytes in wanted.items():
            limit = self._bounds.of(gpu)
            if nbytes > limit:
                raise TooLarge(f"{_named(key)} takes {nbytes} bytes of {gpu}, of {limit} in all.")
            while (held := self._held(gpu)) + nbytes > limit:
                why = f"it takes {nbytes} bytes of {gpu}, others {held}, of {limit} in all"
                await self._make_room(key, Full(why, gpus={gpu}))

    def _held(self, gpu: str) -> int:
        return sum(model.room.get(gpu, 0) for model in self.serving.values())

    async def _make_room(self, key: Key, full: Full) -> None:
        """Return once there is more room on GPUs, if need be of a version that gives way."""
        if not self._closing:
            self._evict_one(key, full)
        await asyncio.wait(self._closing)
        for gpu in full.gpus:
            await asyncio.to_thread(gpu_of(gpu).trim)

    def _evict_one(self, key: Key, full: Full) -> None:
        """Evict the version on its GPUs that has been idle the longest; raise if there is none."""
        if full.empty and not self._on(full.gpus):
            raise TooLarge(f"{_named(key)} is too large for its GPU: {full}.")
        idle = self._idle(key, full.gpus)
        if not idle:
            raise NoRoom(f"{_named(key)} has to wait until there is room: {full}.")
        longest = max(idle, key=lambda other: self.serving[other].idle)
        self._bounds.on_evict(longest[0])
        self._evict(longest, f"it gave way to version {key[1]} of {key[0]}")

    def _on(self, gpus: Collection[str]) -> list[Key]:
        """Return the versions that have memory of one of ``gpus``."""
        return [
            other for other, model in self.serving.items() if not model.room.keys().isdisjoint(gpus)
        ]

    def _idle(self, key: Key, gpus: Collection[str]) -> list[Key]:
        """Return those of them that may give way to a version."""
        return [other for other in self._on(gpus) if not self._used[other] and other != key]


def promised(spec: ModelSpec) -> dict[str, int]:
    """Return what a model is said to take of each GPU of this node, by UUID."""
    said: Counter[str] = Counter()
    for instance in spec.instances:
        if instance.memory is not None and (gpu := present(instance.device)) is not None:
            said[gpu.info.uuid] += instance.memory
    return dict(said)


def _hold_to(said: Mapping[str, int], taken: Mapping[str, int], model: str) -> None:
    for gpu, nbytes in said.items():
        if taken.get(gpu, 0) > nbytes:
            raise TooLarge(
                f"{model}/model.yaml: instances: memory: {nbytes} bytes are said, but its "
                f"engines took {taken[gpu]} of {gpu}."
            )


def _named(key: Key) -> str:
    return f"Version {key[1]} of {key[0]!r}"
