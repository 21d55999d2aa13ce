"""A copy of each image for a version that only looks on.

The copy is sent when the original has been answered, and is a request of this worker's own: it
holds up nobody, has no event to acknowledge, and is not cached. Its result is stored under the
source `subjects.shadow_source`, and compared with the original's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import timedelta

from services.ingest.callers import Callers
from services.ingest.flights import hear, read_result
from visionmesh import subjects
from visionmesh.context import Context
from visionmesh.contracts import Reference, Result, Status
from visionmesh.errors import Refused, Retry
from visionmesh.models.record import ModelRecord
from visionmesh.outbox import forward
from visionmesh.tasks import end

PATIENCE = timedelta(seconds=10)
"""For the original's result, and then for the shadow's."""
MAX_COPIES = 16
"""In hand at once; with more, a shadow that is slower than the rest would fill every queue."""
MAX_BYTES = 64 << 20
"""Of the images that wait for the results of their originals."""

log = logging.getLogger(__name__)

Original = asyncio.Future[Result | None]


class Shadows:
    """Shows images to the shadows of their models, and counts how far those agree."""

    def __init__(self, *, context: Context) -> None:
        self._context = context
        self._callers = Callers(connection=context.connection, reader=context.reader)
        self._originals: dict[str, Original] = {}
        """Of callers' images, by reply subject."""
        self._copies: set[asyncio.Task[None]] = set()
        self._bytes = 0

    async def start(self) -> None:
        await self._callers.start()

    async def stop(self) -> None:
        await end(self._copies)

    def follow(
        self, record: ModelRecord, reference: Reference, image: bytes, known: Result | None
    ) -> None:
        """Take note of an image that is on its way to a version, or answered already (``known``).

        If too many are in hand, the shadow does without this one.
        """
        version = record.traffic.shadow
        if version is None or version == reference.version or version not in record.versions:
            return
        if len(self._copies) >= MAX_COPIES or self._bytes + len(image) > MAX_BYTES:
            self._count(reference.model, version, "skipped")
            return
        original: Original | None = None
        if known is not None or reference.reply is not None:
            original = asyncio.get_running_loop().create_future()
            if known is not None:
                original.set_result(known)
            elif reference.reply is not None:
                self._originals[reference.reply] = original
        self._bytes += len(image)
        task = asyncio.create_task(self._show(reference, version, image, original))
        self._copies.add(task)
        task.add_done_callback(lambda task: self._shown(task, reference, len(image)))

    def landed(self, reply: str, body: bytes | None) -> None:
        """Tell how a caller's image ended; ``body`` is its result, if it has one."""
        original = self._originals.pop(reply, None)
        if original is not None and not original.done():
            original.set_result(read_result(body) if body is not None else None)

    def _shown(self, task: asyncio.Task[None], reference: Reference, size: int) -> None:
        self._copies.discard(task)
        self._bytes -= size
        self._originals.pop(reference.reply or "", None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s was not shown to a shadow", reference.id, exc_info=error)

    async def _show(
        self, reference: Reference, version: int, image: bytes, original: Original | None
    ) -> None:
        try:
            answered = await self._answered(reference, original)
            if answered is None or answered.status is not Status.OK:
                self._count(reference.model, version, "skipped")
                return
            shadow = await self._ask(_copy(reference, version), image)
        except (TimeoutError, Retry, Refused) as error:
            log.info("the shadow %d of %s: %s", version, reference.model, error)
            self._count(reference.model, version, "lost")
            return
        if shadow is None:
            self._count(reference.model, version, "skipped")
        elif shadow.status is not Status.OK:
            self._count(reference.model, version, "failed")
        else:
            self._count(reference.model, version, "compared", _agreement(answered, shadow))

    async def _answered(self, reference: Reference, original: Original | None) -> Result | None:
        """Return the original's result; of an event it is heard of as everybody hears of it."""
        async with asyncio.timeout(PATIENCE.total_seconds()):
            if original is not None:
                return await original
            subject = subjects.result(reference.model, reference.source, reference.id)
            body = await hear(
                self._context.connection,
                subject,
                since_ns=reference.received_ns,
                patience=PATIENCE,
            )
            return read_result(body) if body is not None else None

    async def _ask(self, copy: Reference, image: bytes) -> Result | None:
        """Send the copy, store its result and return it; none if there is no room for it now."""
        context = self._context
        lane = context.nodes.lane("preprocess")
        room = context.room_now(lane, len(image))
        if room is None:
            return None
        reply, answer = self._callers.open()
        try:
            with room as slot:
                slot.view[:] = image
                sending = forward(subjects.IMAGES, subjects.image(copy.model, lane), slot)
            asked = copy.model_copy(update={"reply": reply})
            await context.outbox.pass_on([(asked, sending, context.trail(asked))])
            async with asyncio.timeout(PATIENCE.total_seconds()):
                result = (await answer).result()
        finally:
            self._callers.close(reply)
        await context.settlement.answer([(copy, result, None)])
        return result

    def _count(
        self, model: str, version: int, outcome: str, agreement: float | None = None
    ) -> None:
        self._context.metrics.model(model).shadowed(version, outcome, agreement)


def _copy(reference: Reference, version: int) -> Reference:
    """Return the reference of the copy: nobody waits for it, and nothing is kept under its keys."""
    now = time.time_ns()
    return Reference(
        # Sources may have any name: the version keeps the result's subject apart from all others.
        id=f"{reference.id}~v{version}",
        source=subjects.shadow_source(reference.source),
        model=reference.model,
        version=version,
        sha256=reference.sha256,
        params=reference.params,
        tensors=reference.tensors,
        deadline_ns=now + PATIENCE // timedelta(microseconds=1) * 1000,
        received_ns=now,
        sent_ns=now,
    )


def _agreement(original: Result, shadow: Result) -> float | None:
    """Return how much of two answers is equal; none for heat-maps, which do not travel."""
    from visionmesh.models.agreement import likeness  # noqa: PLC0415 - only shadows need OpenCV

    if all(
        part is None
        for part in (original.classes, original.detections, original.regions, original.embedding)
    ):
        return None
    equal, compared = likeness(original, shadow)
    return equal / compared if compared else 1.0
