"""The infer worker: input pixels in, the network's outputs out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta

from services.infer.backlog import Backlog
from services.infer.batch_spans import BatchSpans
from services.infer.batcher import Batch
from services.infer.engines import Image
from services.infer.loaded import LoadedModel
from services.infer.loading import Loader
from services.infer.memory import present
from services.infer.plans import MeshPlans
from services.infer.pool import ModelPool
from services.infer.room import Bounds, Key
from visionmesh import subjects
from visionmesh.context import Context, Near
from visionmesh.contracts import Answer, Priority, Reference, Want
from visionmesh.errors import Code, Expired, Fatal
from visionmesh.gpu import Gpu
from visionmesh.gpu.opening import is_gpu
from visionmesh.gpu.watch import GpuWatch
from visionmesh.handover import size_of
from visionmesh.models.record import ModelRecord
from visionmesh.nodes import version_key
from visionmesh.outbox import Forward, forward
from visionmesh.service import Worker
from visionmesh.settlement import recognised
from visionmesh.stage import GONE, Done, Ended, Item, Outcome, Stage
from visionmesh.tasks import end
from visionmesh.tensors import arrays, device_arrays

_NOT_CACHED = {"result_key": None, "features_key": None}

log = logging.getLogger(__name__)


class Infer(Worker):
    """Loads what the registry holds, and runs images in batches."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._stage = Stage(context=context, handler=self._infer_all)
        self._plans = MeshPlans(
            context.catalog.registry.plans,
            context.settings.state_dir / "plans",
            loop=asyncio.get_running_loop(),
        )
        self._pool = ModelPool(
            loader=Loader(
                registry=context.catalog.registry,
                directory=context.settings.state_dir / "artifacts",
                plans=self._plans,
            ),
            on_batch=self._count,
            on_change=self._pool_changed,
            undecodable=context.nodes.undecodable,
            bounds=_bounds(context),
        )
        self._gpus = GpuWatch(looked=self._tell_gpus)
        context.metrics.watch_gpus(lambda: self._gpus.seen)
        self._up = False
        self._asked: dict[str, asyncio.Future[Forward | Done]] = {}
        """The images that callers wait for, by reply subject."""
        self._stage.cancelled.on_cancel(self._give_up)
        self._spans = BatchSpans()
        self._backlog = Backlog()
        self._telling: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._announcing: asyncio.Task[None] | None = None
        self._changes: dict[str, asyncio.Task[None]] = {}
        self._listening: set[str] = set()
        """The models whose images this worker takes."""

    @property
    def in_hand(self) -> int:
        return self._stage.in_hand

    @property
    def unfit(self) -> str | None:
        used = {gpu for model in self._pool.loaded for gpu in model.device_memory}
        return self._gpus.unfit(used)

    async def start(self) -> None:
        await self._gpus.start()
        await self._stage.start()
        self._announcing = asyncio.create_task(self._announce_news(), name="announce models")
        self._context.catalog.on_change(self._model_changed)
        await self._context.catalog.start()
        await asyncio.gather(*self._changes.values())
        self._up = True

    async def stop(self) -> None:
        # Nobody waits for what takes minutes to be built: another worker does that.
        self._plans.close()
        await self._stage.stop()
        await end([*self._changes.values(), *([self._announcing] if self._announcing else [])])
        await self._pool.close()
        await self._gpus.stop()

    async def _model_changed(self, name: str, record: ModelRecord | None) -> None:
        """Load in the background: a large model must not hold up the others."""
        before = self._changes.get(name)
        task = asyncio.create_task(self._follow(name, record, before))
        task.add_done_callback(self._followed)
        self._changes[name] = task

    async def _follow(
        self, name: str, record: ModelRecord | None, before: asyncio.Task[None] | None
    ) -> None:
        if before is not None:
            await asyncio.wait((before,))
        if record is not None:
            await self._make_room(record)
        await self._pool.apply(name, record)
        if record is None or name in self._pool.states.elsewhere:
            self._listening.discard(name)
            await self._stage.unlisten_lanes(f"infer_{name}")
        else:
            await self._stage.listen_lanes(
                subjects.TENSORS, f"vm.tensors.{name}", name=f"infer_{name}"
            )
            self._listening.add(name)
        if record is None:
            self._context.metrics.forget(name)
        await self._announce()

    async def _make_room(self, record: ModelRecord) -> None:
        """Take a GPU's memory for outputs that may stay there, before weights take it."""
        named = {one.device for one in record.spec.instances if not one.fallback}
        if is_gpu(self._context.settings.postprocess.device) and any(map(is_gpu, named)):
            for device in named:
                if (gpu := await asyncio.to_thread(present, device)) is not None:
                    await self._context.devices.open(gpu)

    def _followed(self, task: asyncio.Task[None]) -> None:
        """A worker that has missed a change would serve something else than the others."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a model cannot be followed", exc_info=error)
            self._context.fail(Fatal(Code.INTERNAL, f"A model cannot be followed: {error}"))

    def _pool_changed(self) -> None:
        self._news.set()

    async def _announce_news(self) -> None:
        """Tell what the pool loads and drops by itself."""
        while True:
            await self._news.wait()
            await self._announce()

    async def _announce(self) -> None:
        self._news.clear()
        pool, states = self._pool, self._pool.states
        loaded = tuple(model.told() for model in pool.loaded)
        await self._context.devices.read(model.gpu for model in pool.loaded if model.gpu)
        models = {name: told for name, told in pool.versions.items() if name in self._listening}
        settled = self._listening | states.elsewhere
        applied = {name: told for name, told in pool.applied.items() if name in settled}
        await self._context.nodes.update(
            models=models,
            applied=applied,
            failed=_by_version(states.failures),
            asleep=_by_version(states.asleep),
            loading=_by_version(states.loading),
            loaded=loaded,
        )

    async def _tell_gpus(self) -> None:
        """Tell how the GPUs are; while one is unfit, images go to other workers if they can."""
        gpus = tuple(gpu.model_copy(update={"processes": ()}) for gpu in self._gpus.seen)
        ready = {"ready": self.unfit is None} if self._up else {}
        await self._context.nodes.update(gpus=gpus, **ready)

    def _count(self, model: LoadedModel, batch: Batch) -> None:
        metrics = self._context.metrics.model(model.name)
        metrics.batch(batch.size)
        if batch.halved:
            metrics.halved()
        metrics.engine_queue(model.queued)
        ran = timedelta(microseconds=(batch.finished_ns - batch.started_ns) / 1e3 / batch.size)
        news = self._backlog.note(model.name, queued=model.queued, engines=model.engines, cost=ran)
        if news and (self._telling is None or self._telling.done()):
            self._telling = asyncio.create_task(self._backlog.tell(self._announce_backlog))

    async def _announce_backlog(self, milliseconds: dict[str, int]) -> None:
        await self._context.nodes.update(backlog=milliseconds)

    async def _infer_all(self, items: Sequence[Item]) -> AsyncIterator[Sequence[Ended]]:
        """Queue the whole bundle; what comes out of the engines together goes on together."""
        running = {asyncio.ensure_future(self._infer(item)): item for item in items}
        asked = {item.reference.reply: one for one, item in running.items() if item.reference.reply}
        self._asked.update(asked)
        try:
            while running:
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                yield [(running.pop(one), _outcome(one)) for one in done]
        finally:
            for reply in asked:
                self._asked.pop(reply, None)

    def _give_up(self, reply: str) -> None:
        """Let an image that nobody waits for leave the queue of the engines."""
        if (running := self._asked.get(reply)) is not None:
            running.cancel()

    @property
    def _lane(self) -> str:
        """Where outputs go."""
        return self._context.nodes.lane("postprocess")

    async def _infer(self, item: Item) -> Forward | Done:
        reference, context = item.reference, self._context
        name, version = reference.model, reference.version
        gpu = self._pool.gpu(name, version)
        near = self._near(reference, gpu)
        # While a file is replaced under its number, what the old one says must not be kept.
        keys = {} if self._pool.is_current(name, version) else _NOT_CACHED
        urgent = reference.priority is Priority.HIGH
        image = _image(item, gpu)
        output = await self._pool.infer(name, version, image, urgent=urgent, home=near is None)
        context.metrics.model(name).engine(
            version, (output.batch.finished_ns - output.enqueued_ns) / 1e9
        )
        self._spans.record(item.trail, output)
        item.reading.check()
        if reference.want is Want.TENSORS:
            result = recognised(reference, Answer(), item.trail, image=None, cache=None)
            return Done(result, await context.hand_over(reference, output.outputs, gpu))
        lane = self._lane
        with await context.room(lane, size_of(output.outputs), near) as slot:
            metas = await context.lay_out(output.outputs, slot, gpu)
            return forward(
                subjects.OUTPUTS, subjects.output(name, lane), slot, tensors=metas, **keys
            )

    def _near(self, reference: Reference, gpu: Gpu | None) -> Near | None:
        """Return where outputs stay that postprocess reduces there; `None` if they come home."""
        if gpu is None or reference.want is not Want.RESULT:
            return None
        version = version_key(reference.model, reference.version)
        near = Near(gpu=gpu, stage="postprocess", reduced=version)
        return near if self._context.stays(self._lane, near) else None


def _bounds(context: Context) -> Bounds:
    settings = context.settings.infer
    return Bounds(
        nbytes=settings.device_memory_bytes,
        share=settings.device_memory_share,
        on_evict=lambda name: context.metrics.model(name).evicted(),
    )


def _by_version(told: Mapping[Key, str]) -> dict[str, str]:
    return {version_key(*key): why for key, why in told.items()}


def _image(item: Item, gpu: Gpu | None) -> Image:
    """Return the pixels in the memory of ``gpu`` if that is where they are, else in the host's."""
    reading, tensors = item.reading, item.reference.tensors
    if gpu is not None and reading.device is not None and gpu.holds(reading.device):
        (image,) = device_arrays(reading.device, tensors).values()
    else:
        (image,) = arrays(reading.view, tensors).values()
    return image


def _outcome(ended: asyncio.Future[Forward | Done]) -> Outcome:
    if ended.cancelled():
        return Expired(GONE)
    return ended.exception() or ended.result()
