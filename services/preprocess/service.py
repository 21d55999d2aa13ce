"""The preprocess worker: encoded images in, the model's input pixels out."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from services.preprocess.pixels import prepare
from visionmesh import subjects
from visionmesh.context import Context
from visionmesh.contracts import TensorMeta
from visionmesh.errors import Code, Reject
from visionmesh.outbox import Forward, forward
from visionmesh.service import App
from visionmesh.stage import Item, Stage
from visionmesh.telemetry.spans import SpanName

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

    async def _prepare(self, item: Item) -> Forward:
        model = item.reference.model
        record = self._context.catalog.find(model)
        if record is None:
            raise Reject(Code.UNKNOWN_MODEL, f"The model {model!r} was removed.")
        spec = record.spec.input
        meta = TensorMeta(
            name=_INPUT, dtype="uint8", shape=(spec.height, spec.width, spec.channels)
        )
        lane = self._context.nodes.lane("infer", model)
        with await self._context.room(lane, spec.height * spec.width * spec.channels) as slot:
            out = np.frombuffer(slot.view, np.uint8).reshape(meta.shape)
            began = time.time_ns()
            prepared = await asyncio.get_running_loop().run_in_executor(
                self._threads,
                lambda: prepare(item.reading.view, spec, out, max_pixels=self._settings.max_pixels),
            )
            item.reading.check()
            item.trail.span(SpanName.DECODE_IMAGE, began, time.time_ns())
            return forward(
                subjects.TENSORS,
                subjects.tensor(model, lane),
                slot,
                width=prepared.width,
                height=prepared.height,
                placement=prepared.placement,
                tensors=(meta,),
            )
