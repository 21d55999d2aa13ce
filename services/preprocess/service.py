"""The preprocess worker: encoded images in, the model's input pixels out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from services.preprocess.gpu.decoding import open_jpeg_decoder
from services.preprocess.gpu.preparer import GpuPreparer
from services.preprocess.job import CpuPreparer, Job, Preparer
from services.preprocess.pixels import Prepared
from visionmesh import subjects
from visionmesh.context import Context, Near
from visionmesh.contracts import TensorMeta
from visionmesh.errors import ConfigurationError, Miss, Reject, Retry
from visionmesh.gpu import Gpu, GpuError
from visionmesh.gpu.failures import lost
from visionmesh.gpu.gpu import GpuLostError
from visionmesh.models.spec import InputSpec
from visionmesh.outbox import forward
from visionmesh.service import Worker
from visionmesh.stage import Ended, Item, Outcome, Stage
from visionmesh.stored import cache_keys
from visionmesh.telemetry.spans import SpanName
from visionmesh.tensors import Slot

_INPUT = "pixels"

log = logging.getLogger(__name__)


class Preprocess(Worker):
    """Decodes and fits images, in threads or on a GPU, straight into the arena."""

    def __init__(self, context: Context) -> None:
        self._context = context
        settings = context.settings.preprocess
        self._gpu: Gpu | None = None
        self._preparer: Preparer = CpuPreparer(max_pixels=settings.max_pixels)
        self._stage = Stage(context=context, handler=self._prepare)
        self._threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="pixels")

    @property
    def in_hand(self) -> int:
        return self._stage.in_hand

    async def start(self) -> None:
        if self._context.gpu is not None:
            await self._prepare_on(self._context.gpu)
        await self._context.catalog.start()
        await self._stage.start()
        await self._stage.listen_lanes(subjects.IMAGES, "vm.images.*")

    async def stop(self) -> None:
        await self._stage.stop()
        self._threads.shutdown()

    async def _prepare_on(self, gpu: Gpu) -> None:
        """Have ``gpu`` prepare images from now on, if it can."""
        settings, metrics = self._context.settings.preprocess, self._context.metrics
        try:
            # Compiles kernels and makes decoders, for seconds.
            self._preparer = await asyncio.to_thread(
                GpuPreparer,
                gpu=gpu,
                max_pixels=settings.max_pixels,
                at_once=settings.threads,
                open_decoder=open_jpeg_decoder,
                count=metrics.decoded,
            )
        except GpuLostError as error:
            raise lost(error) from error
        except (GpuError, ConfigurationError) as error:
            log.warning("images are prepared on the CPU, not on %s: %s", settings.device, error)
            return
        self._gpu = gpu
        await self._context.nodes.update(device=settings.device)

    async def _prepare(self, items: Sequence[Item]) -> AsyncIterator[Sequence[Ended]]:
        """Unpack a bundle in one thread; the next one has the next thread."""
        with ExitStack() as slots:
            jobs: list[tuple[_Order, Job]] = []
            for item in items:
                try:
                    order = self._open(item)
                    room = order.lane, order.nbytes, order.near
                    slot = self._context.room_now(*room)
                    if slot is None and jobs:
                        # Bundles that wait for room while they hold some would block each other.
                        yield await self._work_off(jobs)
                        jobs = []
                    slot = slot or await self._context.room(*room)
                except (Reject, Retry) as error:
                    yield [(item, error)]
                    continue
                jobs.append((order, order.job(slots.enter_context(slot))))
            if jobs:
                yield await self._work_off(jobs)

    async def _work_off(self, jobs: list[tuple[_Order, Job]]) -> list[Ended]:
        loop = asyncio.get_running_loop()
        prepare = self._preparer.prepare
        prepared = await loop.run_in_executor(self._threads, prepare, [job for _, job in jobs])
        return [
            (order.item, _outcome(order, job, one))
            for (order, job), one in zip(jobs, prepared, strict=True)
        ]

    def _open(self, item: Item) -> _Order:
        reference = item.reference
        record = self._context.catalog.admitted(reference.model, reference.version)
        keys = (reference.result_key, reference.features_key)
        if reference.result_key is not None and keys != cache_keys(reference, record):
            item.reference = reference.model_copy(update={"result_key": None, "features_key": None})
        lane = self._context.router.lane(reference.model, record.spec.routing, reference.source)
        near = Near(gpu=self._gpu, stage="infer", model=reference.model) if self._gpu else None
        return _Order(item, record.version(reference.version).input, lane, near)


@dataclass(frozen=True, slots=True)
class _Order:
    """What is to be made of an image, and for whom."""

    item: Item
    spec: InputSpec
    lane: str
    near: Near | None

    @property
    def nbytes(self) -> int:
        return self.spec.height * self.spec.width * self.spec.channels

    def job(self, slot: Slot) -> Job:
        item = self.item
        return Job(
            payload=item.reading.view, tensors=item.reference.tensors, spec=self.spec, slot=slot
        )


def _outcome(order: _Order, job: Job, prepared: Prepared | Reject) -> Outcome:
    item, model = order.item, order.item.reference.model
    try:
        item.reading.check()
    except Miss as error:
        return error
    if isinstance(prepared, Reject):
        return prepared
    item.trail.step(SpanName.DECODE_IMAGE, job.began_ns, job.ended_ns)
    meta = TensorMeta(name=_INPUT, dtype="uint8", shape=job.shape)
    return forward(
        subjects.TENSORS,
        subjects.tensor(model, order.lane),
        job.slot,
        width=prepared.width,
        height=prepared.height,
        placement=prepared.placement,
        tensors=(meta,),
    )
