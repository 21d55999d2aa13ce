"""A pool on a GPU that does not hold all models, and what it is asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from services.infer.engines import Engine, Image, Outputs
from services.infer.loading import Loaded, Loader, Terms
from services.infer.memory import Full
from services.infer.pool import ModelPool
from services.infer.room import Bounds
from tests.services.infer.conftest import image_of, pushed, right
from visionmesh.gpu import open_gpu
from visionmesh.gpu.opening import is_gpu
from visionmesh.models.record import VersionRecord
from visionmesh.models.registry import Registry
from visionmesh.models.spec import Instance, ModelSpec

GPU = open_gpu("emulated").info.uuid
MODELS = ("elms", "yews", "larches")
ON_GPU = "instances:\n  - {device: emulated}\n"
SIZE = 40
"""Of each model but for those that a test makes larger."""


class Gate:
    """What runs wait for; open unless a test shuts it."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.reached = threading.Event()

    def pass_through(self) -> None:
        self.reached.set()
        assert self.open.wait(timeout=10)


class Held:
    """An engine that gives its part of a device back when it is closed."""

    def __init__(self, engine: Engine, device: Device, gate: Gate) -> None:
        self._engine = engine
        self._device = device
        self._gate = gate
        self.batch_sizes = engine.batch_sizes

    def run(self, images: Sequence[Image], *, home: bool = True) -> Outputs:
        self._gate.pass_through()
        return self._engine.run(images, home=home)

    def warm(self) -> None:
        self._engine.warm()

    def close(self) -> None:
        self._engine.close()
        self._device.used -= SIZE


class Device(Loader):
    """Loads networks on the CPU as if each took `SIZE` bytes of a GPU that has ``memory`` bytes."""

    def __init__(self, *, registry: Registry, directory: Path, memory: int) -> None:
        super().__init__(registry=registry, directory=directory)
        self.memory = memory
        self.used = self.most = self.others = 0
        self.refused = threading.Event()
        self.fault: Exception | None = None
        self.exact = True
        self.tells = ""
        self.gates = {name: Gate() for name in MODELS}
        self.wants = SIZE
        """What the largest batches take; smaller ones do with `SIZE`."""

    async def load(self, spec: ModelSpec, stored: VersionRecord, terms: Terms) -> Loaded:
        if self.tells:
            terms.told(self.tells)
        if self.fault is not None:
            raise self.fault
        if not any(is_gpu(instance.device) for instance in spec.instances):
            return await super().load(spec, stored, terms)

        async def accept(loaded: Loaded) -> Loaded:
            held = self._held(loaded, self.gates[spec.name])
            try:
                return await terms.accept(held)
            except BaseException:
                self.used -= SIZE
                raise

        on_cpu = spec.model_copy(update={"instances": (Instance(count=1),)})
        return await super().load(on_cpu, stored, replace(terms, accept=accept))

    def _held(self, loaded: Loaded, gate: Gate) -> Loaded:
        """Return what was loaded as if it had taken a part of the device."""
        free = self.memory - self.used - self.others
        if free < SIZE:
            self.refused.set()
            raise Full(f"{free} bytes are free", gpus={GPU}, empty=not self.others)
        self.used += SIZE
        self.most = max(self.most, self.used)
        [engine] = loaded.engines
        return replace(
            loaded,
            engines=(Held(engine, self, gate),),
            device_memory={GPU: SIZE},
            exact=self.exact,
            short=frozenset({GPU} if free < self.wants else ()),
        )


class Pool:
    """A pool on such a device, and the models that it is given by name."""

    def __init__(self, registry: Registry, folder: Path, *, memory: int, bound: int | None) -> None:
        self.evicted: list[str] = []
        self.loading: list[dict[tuple[str, int], str]] = []
        """What is being loaded, as it changed."""
        self.device = Device(registry=registry, directory=folder / "cache", memory=memory)
        self.pool = ModelPool(
            loader=self.device,
            on_change=self._note,
            bounds=Bounds(nbytes=bound, on_evict=self.evicted.append),
        )
        self._registry = registry
        self._folder = folder

    def _note(self) -> None:
        self.loading.append(dict(self.pool.states.loading))

    async def apply(self, *names: str, more: str = ON_GPU) -> None:
        for name in names:
            record = await pushed(self._registry, self._folder / name, more=more)
            await self.pool.apply(name, record)

    async def answers(self, name: str) -> None:
        output = await self.pool.infer(name, 1, image_of(3))
        np.testing.assert_allclose(output.outputs["scores"], right(1, 3), rtol=1e-4)

    @asynccontextmanager
    async def busy(self, name: str) -> AsyncIterator[None]:
        """Have a model compute an image as long as the block lasts."""
        gate = self.device.gates[name]
        gate.open.clear()
        answer = asyncio.create_task(self.answers(name))
        assert await asyncio.to_thread(gate.reached.wait, 10)
        try:
            yield
        finally:
            gate.open.set()
        await answer

    @property
    def loaded(self) -> set[str]:
        return {model.name for model in self.pool.loaded}
