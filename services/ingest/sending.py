"""Sending images on: to the stage that works on them next, once every stage has a worker."""

from __future__ import annotations

import asyncio
import time

from visionmesh import subjects
from visionmesh.context import Context
from visionmesh.contracts import Placement, Reference
from visionmesh.errors import Code, Expired, Retry
from visionmesh.models.record import ModelRecord
from visionmesh.outbox import forward
from visionmesh.stored import split_features
from visionmesh.trail import Trail

_AS_IT_IS = Placement(scale_x=1.0, scale_y=1.0, offset_x=0.0, offset_y=0.0)


class Sending:
    """Puts images into the streams of the other stages.

    Events can wait here while a stage has no worker for their model. Sent on, each would be
    delivered again after every ``ack_wait``, and lie in that stage's stream once more. A caller's
    image does not wait: it is sent once, and the caller has little patience.
    """

    def __init__(self, *, context: Context) -> None:
        self._context = context
        self._news = asyncio.Event()
        self._closed = False
        context.nodes.on_change(self._news.set)
        context.catalog.on_change(self._model_changed)

    def close(self) -> None:
        """Have what waits delivered again, to another worker."""
        self._closed = True
        self._news.set()

    async def _model_changed(self, name: str, record: ModelRecord | None) -> None:
        self._news.set()

    async def until_staffed(self, reference: Reference) -> None:
        """Return when every stage can take the event's image.

        Raises
        ------
        Expired
            If its deadline passes first.
        Retry
            If this worker stops first, or the model is removed.
        """
        if reference.ack is None or self._staffed(reference.model):
            return
        deadline_ns = reference.deadline_ns
        left = max(0, deadline_ns - time.time_ns()) / 1e9 if deadline_ns is not None else None
        try:
            async with asyncio.timeout(left):
                while not self._staffed(reference.model):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError as error:
            raise Expired from error

    async def image(self, reference: Reference, image: bytes, trail: Trail) -> None:
        """Send an encoded image to preprocess."""
        context = self._context
        lane = context.nodes.lane("preprocess")
        with await context.room(lane, len(image)) as slot:
            slot.view[:] = image
            sending = forward(subjects.IMAGES, subjects.image(reference.model, lane), slot)
        await context.outbox.pass_on([(reference, sending, trail)])

    async def input(
        self, record: ModelRecord, reference: Reference, tensor: bytes, trail: Trail
    ) -> None:
        """Send what needs no preprocessing; in the result it is an image of the input's size."""
        context = self._context
        spec = record.version(reference.version).input
        lane = context.router.lane(reference.model, record.spec.routing, reference.source)
        with await context.room(lane, len(tensor)) as slot:
            slot.view[:] = tensor
            sending = forward(
                subjects.TENSORS,
                subjects.tensor(reference.model, lane),
                slot,
                width=spec.width,
                height=spec.height,
                placement=_AS_IT_IS,
            )
        await context.outbox.pass_on([(reference, sending, trail)])

    async def features(self, reference: Reference, value: bytes, trail: Trail) -> bool:
        """Send cached features to postprocess; say no if they are not of this release."""
        try:
            head, packed = split_features(value)
        except ValueError:
            return False
        context = self._context
        lane = context.nodes.lane("postprocess")
        slot = context.inline.reserve(len(packed))
        slot.view[:] = packed
        sending = forward(
            subjects.OUTPUTS,
            subjects.output(reference.model, lane),
            slot,
            features=True,
            width=head.width,
            height=head.height,
            placement=head.placement,
        )
        await context.outbox.pass_on([(reference, sending, trail)])
        return True

    def _staffed(self, model: str) -> bool:
        context = self._context
        if context.nodes.staffed(model):
            return True
        if self._closed or context.catalog.find(model) is None:
            raise Retry(
                f"{model!r} was removed, or this worker stopped, before every stage could take it.",
                code=Code.MODEL_NOT_READY,
            )
        return False
