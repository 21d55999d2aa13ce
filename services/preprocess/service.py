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

from services.preprocess.pixels import Prepared, prepare, prepare_pixels
from visionmesh import subjects
from visionmesh.context import Context
from visionmesh.contracts import PIXELS, TensorMeta
from visionmesh.errors import Miss, Reject, Retry
from visionmesh.models.spec import InputSpec
from visionmesh.outbox import forward
from visionmesh.service import Worker
from visionmesh.stage import Ended, Item, Outcome, Stage
from visionmesh.stored import cache_keys
from visionmesh.telemetry.spans import SpanName
from visionmesh.tensors import Slot, arrays

_INPUT = "pixels"


class Preprocess(Worker):
    """Decodes and fits images in threads, straight into the arena."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._settings = context.settings.preprocess
        self._stage = Stage(context=context, handler=self._prepare)
        self._threads = ThreadPoolExecutor(self._settings.threads, thread_name_prefix="pixels")

    @property
    def in_hand(self) -> int:
        return self._stage.in_hand

    async def start(self) -> None:
        await self._context.catalog.start()
        await self._stage.start()
        await self._stage.listen_lanes(subjects.IMAGES, "vm.images.*")

    async def stop(self) -> None:
        await self._stage.stop()
        self._threads.shutdown()

    async def _prepare(self, items: Sequence[Item]) -> AsyncIterator[Sequence[Ended]]:
        """Unpack a bundle in one thread; the next one has the next thread."""
        with ExitStack() as slots:
            jobs: list[_Job] = []
            for item in items:
                try:
                    job = self._open(item)
                    job.slot = self._context.room_now(job.lane, job.nbytes)
                    if job.slot is None and jobs:
                        # Bundles that wait for room while they hold some would block each other.
                        yield await self._work_off(jobs)
                        jobs = []
                    job.slot = job.slot or await self._context.room(job.lane, job.nbytes)
                except (Reject, Retry) as error:
                    yield [(item, error)]
                    continue
                slots.enter_context(job.slot)
                jobs.append(job)
            if jobs:
                yield await self._work_off(jobs)

    async def _work_off(self, jobs: list[_Job]) -> list[Ended]:
        loop = asyncio.get_running_loop()
        prepared = await loop.run_in_executor(self._threads, self._unpack, jobs)
        return [(job.item, _outcome(job, one)) for job, one in zip(jobs, prepared, strict=True)]

    def _open(self, item: Item) -> _Job:
        reference = item.reference
        record = self._context.catalog.admitted(reference.model, reference.version)
        keys = (reference.result_key, reference.features_key)
        if reference.result_key is not None and keys != cache_keys(reference, record):
            item.reference = reference.model_copy(update={"result_key": None, "features_key": None})
        lane = self._context.router.lane(reference.model, record.spec.routing, reference.source)
        return _Job(item, record.version(reference.version).input, lane)

    def _unpack(self, jobs: Sequence[_Job]) -> list[Prepared | Reject]:
        """What a thread does."""
        outcomes: list[Prepared | Reject] = []
        for job in jobs:
            job.began_ns = time.time_ns()
            try:
                outcomes.append(self._prepared(job))
            except Reject as error:
                outcomes.append(error)
            job.ended_ns = time.time_ns()
        return outcomes

    def _prepared(self, job: _Job) -> Prepared:
        view, limit = job.item.reading.view, self._settings.max_pixels
        if given := arrays(view, job.item.reference.tensors):
            return prepare_pixels(given[PIXELS], job.spec, job.pixels, max_pixels=limit)
        return prepare(view, job.spec, job.pixels, max_pixels=limit)


@dataclass(slots=True)
class _Job:
    """One image, and the slot that takes its pixels."""

    item: Item
    spec: InputSpec
    lane: str
    slot: Slot | None = None
    began_ns: int = 0
    ended_ns: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the pixels: height, width, channels."""
        return self.spec.height, self.spec.width, self.spec.channels

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape)

    @property
    def pixels(self) -> NDArray[np.uint8]:
        assert self.slot is not None
        return np.frombuffer(self.slot.view, np.uint8).reshape(self.shape)


def _outcome(job: _Job, prepared: Prepared | Reject) -> Outcome:
    item, model = job.item, job.item.reference.model
    assert job.slot is not None
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
        subjects.tensor(model, job.lane),
        job.slot,
        width=prepared.width,
        height=prepared.height,
        placement=prepared.placement,
        tensors=(meta,),
    )
