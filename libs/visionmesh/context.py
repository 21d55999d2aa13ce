"""Everything that the parts of one worker process share; built once, passed in."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from prometheus_client import CollectorRegistry

from visionmesh.bus import Connection, Publisher, topology
from visionmesh.cache import Cache
from visionmesh.catalog import Catalog
from visionmesh.contracts import CudaLocation, Reference, TensorMeta
from visionmesh.device_memory import DeviceMemory
from visionmesh.errors import ConfigurationError, Fatal
from visionmesh.gpu import Gpu, open_gpu
from visionmesh.handover import Handover, Outputs, are_home, handed, lay_out, size_of
from visionmesh.models.registry import Registry
from visionmesh.nodes import Nodes
from visionmesh.outbox import Outbox
from visionmesh.routing import Router
from visionmesh.settings import (
    DeviceSettings,
    PostprocessSettings,
    PreprocessSettings,
    ServiceSettings,
    Settings,
)
from visionmesh.settlement import Settlement
from visionmesh.telemetry.metrics import Metrics
from visionmesh.telemetry.tracing import Tracing
from visionmesh.tensors import (
    Arena,
    DeviceArena,
    InlineArena,
    Reader,
    Reading,
    ShmArena,
    Slot,
    reap,
)
from visionmesh.trail import Trail

ARENA_PATIENCE = timedelta(seconds=10)
"""How long an image waits for room in the arena before it is delivered again."""

LEASE = timedelta(seconds=60)
"""After this long a payload that nobody released may be overwritten when room is short."""
HEAD_ROOM = 64 << 10
"""Of a message, for the reference besides an inline payload."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Near:
    """A wish to leave a payload in the memory of a GPU, where its readers can read it there."""

    gpu: Gpu
    stage: str
    """Of the readers."""
    model: str | None = None
    """Only those that serve it are meant."""
    reduced: str | None = None
    """The version, by `version_key`, that all of them must reduce there."""


@dataclass(kw_only=True, slots=True)
class Context:
    """The connections, arenas and instruments of one worker."""

    stage: str
    stream: str
    """Where this stage's work comes from."""
    settings: Settings
    connection: Connection
    publisher: Publisher
    outbox: Outbox
    catalog: Catalog
    nodes: Nodes
    cache: Cache
    metrics: Metrics
    tracing: Tracing
    arena: ShmArena
    gpu: Gpu | None
    """That of the setting ``device``; `None` if it is the CPU, or cannot be used here."""
    devices: DeviceMemory
    failed: asyncio.Future[None]
    """Raises what made this worker unfit."""
    own: ServiceSettings = field(init=False)
    settlement: Settlement = field(init=False)
    router: Router = field(init=False)
    inline: InlineArena = field(init=False)
    reader: Reader = field(init=False)

    def __post_init__(self) -> None:
        settings = self.settings
        self.own = getattr(settings, self.stage)
        self.settlement = Settlement(
            connection=self.connection,
            publisher=self.publisher,
            tracing=self.tracing,
            metrics=self.metrics,
            stage=self.stage,
            max_attempts=settings.events.max_attempts,
        )
        self.router = Router(node=settings.node, places=self.nodes.places)
        self.inline = InlineArena(max_bytes=self.connection.max_payload - HEAD_ROOM)
        self.reader = Reader(directory=settings.shm_dir, on_refused=self.devices.refuse)
        self.nodes.on_change(self.reader.forget_gone)

    def fail(self, error: Fatal) -> None:
        """End this worker with ``error``."""
        if not self.failed.done():
            self.failed.set_exception(error)

    def room_now(self, lane: str, nbytes: int, near: Near | None = None) -> Slot | None:
        """Return a slot as `room` does, or `None` where one would have to be waited for."""
        return self._arena(lane, nbytes, near).reserve(nbytes)

    async def room(self, lane: str, nbytes: int, near: Near | None = None) -> Slot:
        """Return a slot of ``nbytes`` in the arena that readers of ``lane`` can resolve.

        With ``near`` it is in the memory of that GPU (`Slot.device`) if all of them read from it.
        """
        return await self._arena(lane, nbytes, near).acquire(nbytes, timeout=ARENA_PATIENCE)

    def stays(self, lane: str, near: Near | None) -> bool:
        """Say whether what is `near` a GPU may stay there for the readers of ``lane``."""
        return self._device_arena(lane, near) is not None

    def _arena(self, lane: str, nbytes: int, near: Near | None) -> Arena:
        if lane != self.settings.node:
            # What others may read, too, travels with its message.
            return self.inline
        arena = self._device_arena(lane, near)
        return self.arena if arena is None or nbytes > arena.capacity else arena

    def _device_arena(self, lane: str, near: Near | None) -> DeviceArena | None:
        if near is None or lane != self.settings.node:
            return None
        read = self.nodes.all_read(
            near.gpu.info.uuid, stage=near.stage, model=near.model, reduced=near.reduced
        )
        return self.devices.arena(near.gpu) if read else None

    async def lay_out(
        self, outputs: Outputs, slot: Slot, gpu: Gpu | None = None
    ) -> tuple[TensorMeta, ...]:
        """Write a network's outputs, which may be in the memory of ``gpu``, into ``slot``."""
        if gpu is None or (slot.device is None and are_home(outputs)):
            return lay_out(outputs, slot)
        return await self.devices.lay_out(gpu, outputs, slot)

    async def hand_over(
        self, reference: Reference, outputs: Outputs, gpu: Gpu | None = None
    ) -> Handover:
        """Put a network's outputs where the caller's worker can read them."""
        with await self.room(reference.home, size_of(outputs)) as slot:
            return handed(await self.lay_out(outputs, slot, gpu), slot)

    async def read(self, reference: Reference, payloads: memoryview) -> Reading:
        """Resolve where the payload of ``reference`` lies; raise `Miss` if it is gone."""
        location = reference.location
        if isinstance(location, CudaLocation):
            await self.reader.prepare(location)
        return self.reader.read(location, payloads)

    def finished(self, model: str, trail: Trail, status: str, reason: str = "") -> None:
        """Tell the record of an image whose time in this stage is over, and count it."""
        trail.close()
        metrics = self.metrics.model(model)
        metrics.done(status, reason)
        metrics.inference(trail.took_ns / 1e9)
        metrics.queued(trail.queued_ns / 1e9)

    def trail(self, reference: Reference, *, arrived_ns: int = 0) -> Trail:
        """Begin the record of an image in this stage; ``arrived_ns`` is when its message came."""
        return Trail(
            tracing=self.tracing,
            stage=self.stage,
            stream=self.stream,
            reference=reference,
            arrived_ns=arrived_ns,
        )


def shm_prefix(settings: Settings) -> str:
    """Return how the slabs of this mesh on this node begin."""
    return f"visionmesh-{settings.mesh}-{settings.node}-"


@asynccontextmanager
async def open_context(settings: Settings, *, stage: str, stream: str) -> AsyncIterator[Context]:
    """Connect to everything that a worker of ``stage`` needs, and close it in the end."""
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    async with AsyncExitStack() as stack:
        connection = await Connection.open(settings.nats_url, name=f"{stage}@{settings.node}")
        stack.push_async_callback(connection.close)
        await topology.ensure_streams(connection.client, settings.events)
        publisher = Publisher(connection=connection)
        await publisher.start()
        metrics = Metrics(stage=stage, registry=CollectorRegistry())
        tracing = _open_tracing(settings, stage, metrics, stack)
        cache = Cache(url=settings.redis_url, count=metrics.cache)
        stack.push_async_callback(cache.close)
        nodes = Nodes(nc=connection.client, node=settings.node, stage=stage)
        stack.push_async_callback(nodes.stop)
        catalog = Catalog(registry=Registry(connection.client), failed=failed)
        stack.push_async_callback(catalog.stop)
        outbox = Outbox(publisher=publisher, backlog=nodes.backlog)
        stack.push_async_callback(outbox.close)
        arena = _open_arena(settings, stage, metrics, stack)
        devices = _device_memory(settings, stage, nodes, metrics, stack)
        yield Context(
            stage=stage,
            stream=stream,
            settings=settings,
            connection=connection,
            publisher=publisher,
            outbox=outbox,
            catalog=catalog,
            nodes=nodes,
            cache=cache,
            metrics=metrics,
            tracing=tracing,
            arena=arena,
            gpu=await _open_gpu(settings, stage, devices),
            devices=devices,
            failed=failed,
        )


def _open_tracing(
    settings: Settings, stage: str, metrics: Metrics, stack: AsyncExitStack
) -> Tracing:
    tracing = Tracing(
        settings=settings.tracing, service=stage, node=settings.node, state_dir=settings.state_dir
    )
    metrics.watch_spans(lambda: tracing.dropped)
    stack.push_async_callback(asyncio.to_thread, tracing.close)
    return tracing


def _open_arena(
    settings: Settings, stage: str, metrics: Metrics, stack: AsyncExitStack
) -> ShmArena:
    own: ServiceSettings = getattr(settings, stage)
    prefix = f"{shm_prefix(settings)}{stage}-"
    # Names are random: nobody else would remove what a killed worker left, and it fills up memory.
    reap(settings.shm_dir, prefix=prefix)
    arena = ShmArena(
        directory=settings.shm_dir,
        name=f"{prefix}{secrets.token_hex(4)}",
        size=own.arena_bytes,
        lease=LEASE,
    )
    stack.callback(arena.close)
    metrics.watch_arena(used=lambda: arena.used_bytes, capacity=arena.capacity)
    return arena


def _device_memory(
    settings: Settings, stage: str, nodes: Nodes, metrics: Metrics, stack: AsyncExitStack
) -> DeviceMemory:
    own: ServiceSettings = getattr(settings, stage)
    devices = DeviceMemory(
        directory=settings.shm_dir,
        prefix=f"{shm_prefix(settings)}{stage}-",
        size=own.device_arena_bytes if isinstance(own, DeviceSettings) else 0,
        lease=LEASE,
        nodes=nodes,
        metrics=metrics,
    )
    stack.push_async_callback(devices.close)
    return devices


async def _open_gpu(settings: Settings, stage: str, devices: DeviceMemory) -> Gpu | None:
    """Return the GPU that a service is to work on, if it is told one that can be used."""
    own: ServiceSettings = getattr(settings, stage)
    if not isinstance(own, PreprocessSettings | PostprocessSettings) or own.device == "cpu":
        return None
    try:
        gpu = await asyncio.to_thread(open_gpu, own.device)
    except ConfigurationError as error:
        log.warning("%s runs on the CPU, as %s cannot be used: %s", stage, own.device, error)
        return None
    if isinstance(own, PreprocessSettings):
        await devices.open(gpu)
    else:
        await devices.read([gpu])
    return gpu
