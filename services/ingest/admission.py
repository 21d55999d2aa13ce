"""What becomes of an image that arrives: answered from memory, joined to a twin, or sent on."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from services.ingest.flights import Flight, Flights
from services.ingest.near import NearFrames
from services.ingest.sending import Sending
from services.ingest.shadow import Shadows
from services.ingest.tensors import require_tensor
from visionmesh.cache import Found
from visionmesh.context import Context
from visionmesh.contracts import (
    PIXELS,
    Answer,
    CacheInfo,
    ImageInfo,
    Reference,
    Result,
    Status,
    TensorMeta,
    Want,
)
from visionmesh.errors import Code, Expired, Reject
from visionmesh.events import Event
from visionmesh.models.record import ModelRecord
from visionmesh.settlement import recognised
from visionmesh.stored import StoredAnswer, cache_keys
from visionmesh.telemetry.context import format_traceparent, kept_tracestate, parse_traceparent
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
        self._near_frames = NearFrames()
        self.sending = Sending(context=context)
        self.shadows = Shadows(context=context)

    def landed(self, reply: str, body: bytes | None) -> None:
        """Say how a caller's image ended, so that twins that wait for it get its result, too."""
        self._flights.land(reply, body)
        self.shadows.landed(reply, body)

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
            want=event.want,
            home=self._context.settings.node if event.want is not Want.RESULT else "",
            tensors=(event.tensor,) if event.tensor is not None else (),
            attempt=arrival.attempt,
            traceparent=format_traceparent(self._context.tracing.begin(producer)),
            parent_span=producer.span_id if producer else None,
            tracestate=kept_tracestate(event.tracestate) if producer else None,
            received_ns=arrival.received_ns,
            sent_ns=arrival.received_ns,
        )

    async def admit(
        self, reference: Reference, image: bytes, trail: Trail, *, version: int | None = None
    ) -> Result | None:
        """Return the result if it is known already, else send the image to the next stage.

        It goes to the ``version`` that is asked for, else to the one whose turn it is.

        Raises
        ------
        Reject, Expired
            If it is at fault, or too late.
        Retry
            If there is no room for it now.
        """
        record = self._check(reference, image)
        if version is None:
            ready = self._context.nodes.versions(reference.model)
            version = record.choose(reference.id, reference.source, ready=ready)
        for tensor in reference.tensors:
            require_tensor(tensor, image, record.version(version).input)
        # Only results tell it, and what is remembered of them.
        named = reference.want is not Want.TENSORS
        sha256 = await _sha256(image, reference.tensors) if named else ""
        reference = reference.model_copy(update={"version": version, "sha256": sha256})
        if any(tensor.name != PIXELS for tensor in reference.tensors):
            await self.sending.until_staffed(reference)
            await self.sending.input(record, reference, image, trail)
            return None
        if reference.want is not Want.RESULT:
            await self.sending.image(reference, image, trail)
            return None
        known = await self._recognise(record, reference, image, trail)
        self.shadows.follow(record, reference, image, known)
        return known

    async def _recognise(
        self, record: ModelRecord, reference: Reference, image: bytes, trail: Trail
    ) -> Result | None:
        """Return what the caches or a twin know, else send the image on."""
        if not record.spec.cache.enabled:
            await self.sending.until_staffed(reference)
            await self.sending.image(reference, image, trail)
            return None
        answer, features = cache_keys(reference, record)
        reference = reference.model_copy(update={"result_key": answer, "features_key": features})
        while True:
            found = await self._context.cache.lookup(answer, features)
            if (known := await self._known(reference, record, image, found, trail)) is not None:
                return known
            await self.sending.until_staffed(reference)
            # What came back once was no use: the image is computed.
            useful = found.features if reference.attempt == 1 else None
            if useful is not None and await self.sending.features(reference, useful, trail):
                return None
            flight = self._flights.join(reference)
            if flight is None:
                await self.sending.image(reference, image, trail)
                return None
            if (shared := await self._shared(reference, flight, trail)) is not None:
                return shared
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

    async def _known(
        self,
        reference: Reference,
        record: ModelRecord,
        image: bytes,
        found: Found,
        trail: Trail,
    ) -> Result | None:
        """Return the result of the same image, or of one nearly the same, if it is remembered."""
        if found.result is not None:
            result = self._stored(reference, found.result, "result", trail)
            if result is not None:
                return result
        distance = 0 if reference.tensors else record.spec.cache.near_duplicates
        return await self._near(reference, record, image, distance, trail) if distance else None

    async def _near(
        self, reference: Reference, record: ModelRecord, image: bytes, distance: int, trail: Trail
    ) -> Result | None:
        version = record.version(reference.version)
        asked = version.answer_digest + reference.params.model_dump_json()
        twin = await self._near_frames.match(reference, image, asked=asked, distance=distance)
        stored = (await self._context.cache.lookup(twin, None)).result if twin else None
        result = self._stored(reference, stored, "near", trail) if stored is not None else None
        self._context.metrics.cache("near_hit" if result is not None else "near_miss")
        return result

    def _stored(
        self, reference: Reference, stored: bytes, level: str, trail: Trail
    ) -> Result | None:
        """Return the result in a stored value; none if another release wrote it in another form."""
        try:
            known = StoredAnswer.from_bytes(stored)
        except ValueError:
            return None
        info = ImageInfo(width=known.width, height=known.height, sha256=reference.sha256)
        return _result(reference, known, info, level, trail)

    async def _shared(self, reference: Reference, flight: Flight, trail: Trail) -> Result | None:
        """Return the result of the same image that is on its way; none if it is of no use."""
        landed = await self._flights.landed(flight)
        if landed is None or landed.status is Status.EXPIRED:
            return None
        if landed.error is not None:
            if landed.error.code in _NOT_OF_THE_IMAGE:
                return None
            raise Reject(landed.error.code, landed.error.message)
        if landed.image is None or landed.image.sha256 != reference.sha256:
            return None
        self._context.metrics.joined()
        return _result(reference, landed, landed.image, "flight", trail)


def _result(
    reference: Reference, answer: Answer, image: ImageInfo, level: str, trail: Trail
) -> Result:
    """Return the result for an image whose answer was computed for another event."""
    cache = CacheInfo.model_validate({"hit": True, "level": level})
    return recognised(reference, answer, trail, image=image, cache=cache)


async def _sha256(image: bytes, tensors: Sequence[TensorMeta]) -> str:
    """Return the hash in hexadecimal; a large image has it computed in a thread."""
    digest = hashlib.sha256()
    for tensor in tensors:
        # The same bytes in another shape are another image.
        digest.update(tensor.model_dump_json().encode())
    if len(image) < LARGE:
        digest.update(image)
    else:
        await asyncio.to_thread(digest.update, image)
    return digest.hexdigest()
