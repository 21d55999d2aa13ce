"""What becomes of an image that arrives: answered from memory, joined to a twin, or sent on."""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass

from pydantic import ValidationError

from services.ingest.flights import Flight, Flights
from services.ingest.near import NearFrames
from visionmesh import subjects
from visionmesh.context import Context
from visionmesh.contracts import Answer, CacheInfo, ImageInfo, Reference, Result, Status
from visionmesh.errors import Code, Expired, Reject
from visionmesh.events import Event
from visionmesh.models.record import ModelRecord
from visionmesh.outbox import forward
from visionmesh.settlement import total
from visionmesh.stored import StoredAnswer, cache_keys, split_features
from visionmesh.telemetry.context import format_traceparent, parse_traceparent
from visionmesh.trail import Trail

LARGE = 1 << 20
"""Bytes from which on hashing would hold up the event loop noticeably."""
_NOT_OF_THE_IMAGE = frozenset({Code.TOO_MANY_ATTEMPTS, Code.INTERNAL, Code.TIMEOUT})
"""Errors of one pass, which a twin need not share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """An image, who waits for its answer, and when it came."""

    event: Event
    received_ns: int
    ack: str | None = None
    reply: str | None = None
    attempt: int = 1


class Admission:
    """Takes images in, one call for each."""

    def __init__(self, *, context: Context) -> None:
        self._context = context
        self._flights = Flights(
            connection=context.connection, patience=context.settings.events.ack_wait
        )
        self._near = NearFrames()

    def landed(self, reply: str, result: Result | None) -> None:
        """Say how a caller's image ended, so that twins that wait for it get its result, too."""
        self._flights.land(reply, result)

    def reference(self, arrival: Arrival) -> Reference:
        """Return the reference of an image of which nothing is known yet but its event."""
        event = arrival.event
        producer = parse_traceparent(event.traceparent)
        return Reference(
            id=event.id,
            source=event.source,
            model=event.model,
            version=0,
            sha256="",
            params=event.params,
            priority=event.priority,
            deadline_ns=event.deadline_ns,
            ack=arrival.ack,
            reply=arrival.reply,
            attempt=arrival.attempt,
            traceparent=format_traceparent(self._context.tracing.begin(producer)),
            parent_span=producer.span_id if producer else None,
            received_ns=arrival.received_ns,
            sent_ns=arrival.received_ns,
        )

    async def admit(self, reference: Reference, image: bytes, trail: Trail) -> None:
        """Answer the image or send it to the next stage.

        Raises
        ------
        Reject, Expired
            If it is at fault, or too late.
        Retry
            If there is no room for it now.
        """
        record = self._check(reference, image)
        version = record.choose(reference.id)
        sha256 = await _sha256(image)
        reference = reference.model_copy(update={"version": version, "sha256": sha256})
        if not record.spec.cache.enabled:
            await self._send_image(reference, image, trail)
            return
        answer, features = cache_keys(reference, record)
        reference = reference.model_copy(update={"result_key": answer, "features_key": features})
        while not await self._answer_from_memory(reference, record, image, trail):
            flight = self._flights.join(reference)
            if flight is None:
                await self._send_image(reference, image, trail)
                return
            if await self._answer_from_flight(reference, flight, trail):
                return
            self._flights.forget(flight.subject)

    def _check(self, reference: Reference, image: bytes) -> ModelRecord:
        limit = self._context.settings.ingest.max_image_bytes
        if not image:
            raise Reject(Code.EMPTY_BODY, "The body is empty: send the encoded image itself.")
        if len(image) > limit:
            raise Reject(
                Code.PAYLOAD_TOO_LARGE,
                f"The image has {len(image):,} bytes; at most {limit:,} are taken: "
                "send it smaller or better compressed.",
            )
        if reference.deadline_ns is not None and time.time_ns() > reference.deadline_ns:
            raise Expired
        record = self._context.catalog.find(reference.model)
        if record is None:
            raise Reject(
                Code.UNKNOWN_MODEL,
                f"There is no model {reference.model!r} in the mesh; see `visionmesh list`.",
            )
        return record

    async def _answer_from_memory(
        self, reference: Reference, record: ModelRecord, image: bytes, trail: Trail
    ) -> bool:
        assert reference.result_key is not None
        found = await self._context.cache.lookup(reference.result_key, reference.features_key)
        if found.result is not None and await self._answer(
            reference, found.result, "result", trail
        ):
            return True
        distance = record.spec.cache.near_duplicates
        if distance and await self._answer_from_near(reference, record, image, distance, trail):
            return True
        # What came back once was no use: the image is computed.
        if found.features is not None and reference.attempt == 1:
            return await self._send_features(reference, found.features, trail)
        return False

    async def _answer_from_near(
        self, reference: Reference, record: ModelRecord, image: bytes, distance: int, trail: Trail
    ) -> bool:
        asked = record.answer_digest + reference.params.model_dump_json()
        twin = await self._near.match(reference, image, asked=asked, distance=distance)
        stored = (await self._context.cache.lookup(twin, None)).result if twin else None
        answered = stored is not None and await self._answer(reference, stored, "near", trail)
        self._context.metrics.cache("near_hit" if answered else "near_miss")
        return answered

    async def _answer(self, reference: Reference, stored: bytes, level: str, trail: Trail) -> bool:
        """Answer with a stored value; say no if another release wrote it in another form."""
        try:
            known = StoredAnswer.model_validate_json(stored)
        except ValidationError:
            return False
        info = ImageInfo(width=known.width, height=known.height, sha256=reference.sha256)
        await self._tell(reference, known, info, level, trail)
        return True

    async def _tell(
        self, reference: Reference, answer: Answer, image: ImageInfo, level: str, trail: Trail
    ) -> None:
        timings = {**reference.timings, **trail.timings(time.time_ns())}
        timed = reference.model_copy(update={"timings": timings})
        result = Result(
            **answer.recognised(),
            id=reference.id,
            source=reference.source,
            model=reference.model,
            version=reference.version,
            status=Status.OK,
            image=image,
            cache=CacheInfo.model_validate({"hit": True, "level": level}),
            timings=total(timed),
            trace_id=trail.trace_id,
        )
        await self._context.settlement.answer([(timed, result)])

    async def _answer_from_flight(self, reference: Reference, flight: Flight, trail: Trail) -> bool:
        landed = await self._flights.landed(flight)
        if landed is None or landed.status is Status.EXPIRED:
            return False
        if landed.error is not None:
            if landed.error.code in _NOT_OF_THE_IMAGE:
                return False
            raise Reject(landed.error.code, landed.error.message)
        if landed.image is None or landed.image.sha256 != reference.sha256:
            return False
        self._context.metrics.joined()
        await self._tell(reference, landed, landed.image, "flight", trail)
        return True

    async def _send_image(self, reference: Reference, image: bytes, trail: Trail) -> None:
        context = self._context
        lane = context.nodes.lane("preprocess")
        with await context.room(lane, len(image)) as slot:
            slot.view[:] = image
            sending = forward(subjects.IMAGES, subjects.image(reference.model, lane), slot)
        await context.outbox.pass_on([(reference, sending, trail)])

    async def _send_features(self, reference: Reference, value: bytes, trail: Trail) -> bool:
        """Send cached features to postprocess; say no if they are not of this release."""
        context = self._context
        try:
            head, packed = split_features(value)
        except ValueError:
            return False
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


async def _sha256(image: bytes) -> str:
    """Return the hash in hexadecimal; a large image has it computed in a thread."""
    if len(image) < LARGE:
        return hashlib.sha256(image).hexdigest()
    return await asyncio.to_thread(lambda: hashlib.sha256(image).hexdigest())
