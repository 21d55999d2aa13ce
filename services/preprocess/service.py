"""The preprocess worker: encoded images in, the model's input pixels out."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.preprocess.pixels import Prepared, prepare
from visionmesh import subjects
from visionmesh.context import Context
from visionmesh.contracts import TensorMeta
from visionmesh.errors import Code, Miss, Reject, Retry
from visionmesh.models.spec import InputSpec
from visionmesh.outbox import forward
from visionmesh.service import App
from visionmesh.stage import Ended, Item, Outcome, Stage
from visionmesh.telemetry.spans import SpanName
from visionmesh.tensors import Slot

_INPUT = "pixels"


class Preprocess:
    """Decodes and fits images in threads, straight into the arena."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._settings = context.settings.preprocess
        self._stage = Stage(context=context, handler=self._prepare)
        self._threads = ThreadPoolExecutor(self._settings.threads, thread_name_prefix="pixels")
        self._started = False

    @property
    def in_hand(self) -> int:
        return self._stage.in_hand

    def ready(self) -> str | None:
        return None if self._started else "the models are being read"

    def app(self, status: App) -> App:
        return status

    async def start(self) -> None:
        await self._context.catalog.start()
        await self._stage.start()
        await self._stage.listen_lanes(subjects.IMAGES, "vm.images.*")
        self._started = True

    async def stop(self) -> None:
        await self._stage.stop()
        self._threads.shutdown()

    async def _prepare(self, items: Sequence[Item]) -> AsyncIterator[Sequence[Ended]]:
        """Unpack a bundle in one thread; the next one has the next thread."""
        with ExitStack() as slots:
            jobs: list[_Job] = []
            for item in items:
                try:
                    jobs.append(await self._open(item, slots))
                except (Reject, Retry) as error:
                    yield [(item, error)]
            loop = asyncio.get_running_loop()
            prepared = await loop.run_in_executor(self._threads, self._unpack, jobs)
            yield [(job.item, _outcome(job, one)) for job, one in zip(jobs, prepared, strict=True)]

    async def _open(self, item: Item, slots: ExitStack) -> _Job:
        model = item.reference.model
        record = self._context.catalog.find(model)
        if record is None:
            raise Reject(Code.UNKNOWN_MODEL, f"The model {model!r} was removed.")
        spec = record.spec.input
        shape = (spec.height, spec.width, spec.channels)
        lane = self._context.nodes.lane("infer", model)
        slot = slots.enter_context(await self._context.room(lane, math.prod(shape)))
        return _Job(item, spec, lane, slot, np.frombuffer(slot.view, np.uint8).reshape(shape))

    def _unpack(self, jobs: Sequence[_Job]) -> list[Prepared | Reject]:
        """What a thread does."""
        outcomes: list[Prepared | Reject] = []
        for job in jobs:
            job.began_ns = time.time_ns()
            view, limit = job.item.reading.view, self._settings.max_pixels
            try:
                outcomes.append(prepare(view, job.spec, job.pixels, max_pixels=limit))
            except Reject as error:
                outcomes.append(error)
            job.ended_ns = time.time_ns()
        return outcomes


@dataclass(slots=True)
class _Job:
    """One image, and the slot that takes its pixels."""

    item: Item
    spec: InputSpec
    lane: str
    slot: Slot
    pixels: NDArray[np.uint8]
    began_ns: int = 0
    ended_ns: int = 0


def _outcome(job: _Job, prepared: Prepared | Reject) -> Outcome:
    item, model = job.item, job.item.reference.model
    try:
        item.reading.check()
    except Miss as error:
        return error
    if isinstance(prepared, Reject):
        return prepared
    item.trail.step(SpanName.DECODE_IMAGE, job.began_ns, job.ended_ns)
    meta = TensorMeta(name=_INPUT, dtype="uint8", shape=job.pixels.shape)
    return forward(
        subjects.TENSORS,
        subjects.tensor(model, job.lane),
        job.slot,
        width=prepared.width,
        height=prepared.height,
        placement=prepared.placement,
        tensors=(meta,),
    )
