"""Synchronous requests of every protocol: an image in, its answer out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

from services.ingest.admission import Admission, Arrival
from services.ingest.callers import Callers, Reply
from visionmesh.cancelled import give_up
from visionmesh.context import Context
from visionmesh.errors import Code, Expired, Refused, Reject, Retry, VisionmeshError
from visionmesh.events import Event
from visionmesh.models.record import ModelRecord
from visionmesh.settlement import OUTSIDE
from visionmesh.subjects import require_token
from visionmesh.tasks import end

MAX_TRIES = 3
"""An image that could not be worked on, or was lost with who held it, is sent so often."""
PAUSE = timedelta(milliseconds=100)
"""Before the second try, twice as long before the third."""
AT_ONCE = 16
"""Images of one request that are worked on together, and the most that one by REST names."""

_UNLOADED = (
    "it was unloaded. Load it with POST /v2/repository/models/{}/load, or `visionmesh push` it."
)
_NOT_YET = "no infer worker has loaded it yet; try again, or look at `visionmesh ps`."


class Gateway:
    """Admits the image of a request and waits for its answer."""

    def __init__(self, *, context: Context, admission: Admission, callers: Callers) -> None:
        self._context = context
        self._admission = admission
        self._callers = callers
        self._settings = context.settings.ingest
        self._in_hand = 0
        """Images that are being worked on for callers."""

    async def infer(self, event: Event, *, version: int | None = None) -> Reply:
        """Return the answer to ``event``, of a certain ``version`` or the one whose turn it is.

        What no one waits for any more is not computed: the patience is the image's deadline.

        Raises
        ------
        Refused, Reject, Expired
            What kept it from being computed.
        """
        with self._places(event.model, 1):
            return await self._in_time(event, version)

    async def _in_time(self, event: Event, version: int | None) -> Reply:
        patience = self._settings.request_timeout
        if event.deadline_ns is not None:
            left = timedelta(microseconds=(event.deadline_ns - time.time_ns()) / 1e3)
            patience = min(patience, max(left, timedelta(0)))
        given_up_ns = time.time_ns() + patience // timedelta(microseconds=1) * 1000
        event = replace(event, deadline_ns=min(event.deadline_ns or given_up_ns, given_up_ns))
        try:
            async with asyncio.timeout(patience.total_seconds()):
                return await self._infer(event, version)
        except TimeoutError as error:
            if patience < self._settings.request_timeout:
                raise Expired from error
            raise Refused(
                Code.TIMEOUT, f"No answer within {patience.total_seconds():g} s; try again later."
            ) from error

    async def infer_all(
        self, events: Sequence[Event], *, version: int | None = None
    ) -> list[Reply]:
        """Return the answers to several images, in their order; the first error ends the rest."""
        places = asyncio.Semaphore(AT_ONCE)

        async def infer(event: Event) -> Reply:
            async with places:
                return await self._in_time(event, version)

        # A request is never too large for an idle worker: more of it wait than are in hand.
        images = min(len(events), AT_ONCE, self._settings.max_requests)
        with self._places(events[0].model if events else "", images):
            tasks = [asyncio.create_task(infer(event)) for event in events]
            try:
                return await asyncio.gather(*tasks)
            finally:
                await end(tasks)

    async def require(self, model: str, version: int | None = None) -> ModelRecord:
        """Return the model; raise `Refused` if an image for it could not be worked on now."""
        record = await self._context.catalog.look_up(require_token("model", model))
        if version is not None:
            record.version(version)
        self._require_places(model, 1)
        if not self._context.nodes.serving(model):
            if record.parked:
                why = _UNLOADED.format(model)
            else:
                why = self._context.nodes.failure(model) or _NOT_YET
            raise Refused(Code.MODEL_NOT_READY, f"The model {model!r} is not ready: {why}")
        return record

    def refused(self, model: str, error: VisionmeshError) -> None:
        """Count a request that ends in ``error``; models that are not there count as one."""
        known = model if self._context.catalog.find(model) is not None else ""
        status = "expired" if isinstance(error, Expired) else "error"
        self._context.metrics.model(known).done(status, error.code)

    def _require_places(self, model: str, images: int) -> None:
        if self._in_hand + images > self._settings.max_requests:
            raise Refused(
                Code.MESH_FULL,
                "Too many requests are being worked on; try again.",
                wait=self._context.nodes.backlog(model),
            )

    @contextmanager
    def _places(self, model: str, images: int) -> Iterator[None]:
        """Count ``images`` as in hand; raise `Refused` (mesh_full) if they are too many.

        What `require` said does not hold any more: others came while the request was read.
        """
        self._require_places(model, images)
        self._in_hand += images
        try:
            yield
        finally:
            self._in_hand -= images

    async def _infer(self, event: Event, version: int | None) -> Reply:
        for attempt in range(1, MAX_TRIES + 1):
            subject, answer = self._callers.open()
            arrival = Arrival(
                event=event, received_ns=time.time_ns(), reply=subject, attempt=attempt
            )
            reference = self._admission.reference(arrival)
            trail = self._context.trail(reference)
            reply: Reply | None = None
            try:
                known = await self._admission.admit(reference, event.image, trail, version=version)
                self._context.finished(event.model, trail, "ok")
                if known is None:
                    reply = await answer
                    return reply
                self._context.settlement.ended(reference, known)
                reply = Reply.of(known)
                return reply
            except asyncio.CancelledError:
                await give_up(self._context.connection, subject)
                raise
            except Retry as error:
                trail.fail(error.code)
                self._context.metrics.redelivered()
                last = error
                await asyncio.sleep(attempt * PAUSE.total_seconds())
            finally:
                trail.close()
                self._callers.close(subject)
                self._admission.landed(subject, reply.body if reply is not None else None)
        if last.code in OUTSIDE:
            raise Refused(last.code, last.message)
        raise Reject(
            Code.TOO_MANY_ATTEMPTS, f"Given up after {MAX_TRIES} attempts; the last: {last.message}"
        )
