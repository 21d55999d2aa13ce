"""How an image ends: exactly one result, DEAD where something was wrong, then the event's ack."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from visionmesh import subjects
from visionmesh.bus import Connection, Message, Publisher, acknowledge, origin, return_later
from visionmesh.bus.api import stored_message
from visionmesh.contracts import (
    Answer,
    CacheInfo,
    ErrorInfo,
    ImageInfo,
    Reference,
    Result,
    Status,
)
from visionmesh.errors import Code, Expired, Fatal, Refused, Reject, Retry, VisionmeshError
from visionmesh.events import header_value
from visionmesh.handover import Handover
from visionmesh.ordered import EVENT_HEADER
from visionmesh.telemetry.context import parse_traceparent
from visionmesh.telemetry.metrics import Metrics
from visionmesh.telemetry.spans import AttributeValue, Key, Span, SpanKind, SpanName
from visionmesh.telemetry.tracing import Tracing
from visionmesh.trail import Trail

AGAIN_HEADER = "Vm-Again"
"""On the reply to a synchronous request: the image must be sent again, for this code's reason.

The body tells it.
"""

STATUS_HEADER = "Vm-Status"
"""On the reply to a synchronous request whose image was not recognised: the result's status."""

BROKE_DELAY = timedelta(seconds=1)
"""Before an image is tried again on which a worker broke."""

MAX_WAITS = 1200
"""Attempts at an image that has to wait for something else; half a second, or more, for each."""

OUTSIDE = frozenset({Code.MODEL_NOT_READY, Code.MESH_UNREACHABLE, Code.MESH_FULL})
"""Why an image may have to wait through no fault of its own."""

_TOO_LARGE = (
    "The result has {:,} bytes, more than the server takes: ask for fewer or surer detections."
)

_HEADER_NAME = re.compile(r"(?!Nats-)[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""Of a producer's headers, those that may be sent again: tokens (RFC 9110, section 5.6.2), which
other clients do not insist on, and not the server's own."""

Original = tuple[Mapping[str, str], bytes]
"""The headers and the body of an event."""

log = logging.getLogger(__name__)


class Settlement:
    """Stores results and tells everyone who waits: the producer's event, a caller."""

    def __init__(
        self,
        *,
        connection: Connection,
        publisher: Publisher,
        tracing: Tracing,
        metrics: Metrics,
        stage: str,
        max_attempts: int,
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._tracing = tracing
        self._metrics = metrics
        self._stage = stage
        self._max_attempts = max_attempts

    async def answer(self, answers: Sequence[tuple[Reference, Result, Handover | None]]) -> None:
        """Give each result to whoever asked, a caller also the outputs; acknowledge the events.

        A result that is too large for a message becomes an error (payload_too_large).
        """
        stored: list[tuple[Reference, Result, Message]] = []
        for reference, result, handover in answers:
            message = _message(reference, result, handover)
            if not self._publisher.takes(message):
                why = _TOO_LARGE.format(message.size)
                await self.refuse(reference, Reject(Code.PAYLOAD_TOO_LARGE, why))
            elif reference.reply is None:
                stored.append((reference, result, message))
            else:
                await self._connection.send(message.subject, message.body, headers=message.headers)
                self.ended(reference, result)
        if not stored:
            return
        fresh = await self._publisher.publish_once([message for _, _, message in stored])
        for (reference, result, message), new in zip(stored, fresh, strict=True):
            if new:
                self.ended(reference, result)
            else:
                log.info("%s was answered before", message.subject)
            if reference.ack is not None:
                await acknowledge(self._connection, reference.ack)

    def ended(self, reference: Reference, result: Result) -> None:
        """Record the whole time of an image that is answered."""
        context = parse_traceparent(reference.traceparent)
        if context is None or not context.sampled or context.span_id == reference.parent_span:
            return
        attributes: dict[str, AttributeValue] = {
            Key.MESSAGE_ID: reference.id,
            Key.MODEL: reference.model,
            Key.SOURCE: reference.source,
            Key.VERSION: result.version or 0,
            Key.STATUS: result.status,
        }
        if result.cache is not None and result.cache.level is not None:
            attributes[Key.CACHE] = result.cache.level
        if result.error is not None:
            attributes[Key.ERROR] = result.error.code
        self._tracing.record(
            Span(
                SpanName.IMAGE,
                context.trace_id,
                context.span_id,
                reference.parent_span,
                reference.received_ns,
                time.time_ns(),
                SpanKind.INTERNAL,
                attributes,
                (),
                result.status is Status.OK,
                reference.tracestate or "",
            )
        )

    async def fail(
        self, reference: Reference, error: BaseException, *, event: Original | None = None
    ) -> tuple[str, Code]:
        """End the image with ``error`` or have it computed again, as the error's class says.

        Returns the status and the reason that it is counted under. An error that no one foresaw
        is logged, and the image is tried again. What must stop the worker is raised.
        """
        if isinstance(error, Reject | Expired):
            await self.refuse(reference, error, event=event)
            return ("expired" if isinstance(error, Expired) else "error"), error.code
        if isinstance(error, Fatal) or not isinstance(error, Exception):
            raise error
        if not isinstance(error, Retry):
            log.error("%s of %s broke: %r", self._stage, reference.id, error, exc_info=error)
            error = Retry(f"{self._stage} broke with {type(error).__name__}.", delay=BROKE_DELAY)
        if (end := await self.again(reference, error)) is not None:
            return "error", end.code
        self._metrics.redelivered()
        return "retry", error.code

    async def again(self, reference: Reference, error: Retry) -> VisionmeshError | None:
        """Have the image computed once more, or refuse it if that was tried often enough.

        Returns the error that ended it, or `None` if it goes on.
        """
        if reference.reply is not None:
            await self._connection.send(
                reference.reply, error.message.encode(), headers={AGAIN_HEADER: error.code}
            )
            return None
        waits = error.code in OUTSIDE
        if reference.attempt >= (MAX_WAITS if waits else self._max_attempts):
            last = Reject(
                Code.TOO_MANY_ATTEMPTS,
                f"Given up after {reference.attempt} attempts; the last one: {error.message}",
            )
            await self.refuse(reference, last)
            return last
        if reference.ack is not None:
            await return_later(self._connection, reference.ack, error.delay)
        return None

    async def refuse(
        self, reference: Reference, error: Reject | Expired, *, event: Original | None = None
    ) -> None:
        """End the image with ``error``: a copy to DEAD, the error result, then the ack.

        ``event`` is the original where the caller has it; else it is read from EVENTS.
        """
        if reference.ack is not None:
            await self._bury(reference, error, event)
        status = Status.EXPIRED if isinstance(error, Expired) else Status.ERROR
        result = Result(
            id=reference.id,
            source=reference.source,
            model=reference.model,
            version=reference.version or None,
            status=status,
            timings=_total(reference.received_ns, reference.timings),
            error=ErrorInfo(code=error.code, message=error.message),
        )
        await self.answer([(reference, result, None)])

    async def _bury(
        self, reference: Reference, error: VisionmeshError, event: Original | None
    ) -> None:
        assert reference.ack is not None
        original = event or await self._read_event(reference.ack)
        if original is None:
            return
        headers, body = original
        kept = {key: value for key, value in headers.items() if _HEADER_NAME.fullmatch(key)}
        subject = subjects.dead(self._stage, reference.model)
        marks = {
            "Vm-Id": reference.id,
            "Vm-Source": reference.source,
            "Vm-Error-Code": error.code,
            "Vm-Error-Message": error.message,
            "Vm-Time": datetime.now(UTC).isoformat(),
        }
        try:
            await self._publisher.publish(subject, body, headers={**kept, **marks})
        except Refused as refused:
            if refused.code is not Code.PAYLOAD_TOO_LARGE:
                raise
            # With the marks the event is too large for one message; it must end all the same.
            await self._publisher.publish(subject, b"", headers=marks)
        self._metrics.model(reference.model).dead(error.code)

    async def _read_event(self, ack: str) -> Original | None:
        """Return the event as EVENTS keeps it, or `None` if another pass has ended it.

        Raises
        ------
        Retry
            If the server does not answer now: without its event an image must not be ended.
        """
        sequence = origin(ack).sequence
        message = await stored_message(self._connection.client, subjects.EVENTS, seq=sequence)
        return (message.headers or {}, message.data) if message is not None else None


def recognised(
    reference: Reference,
    answer: Answer,
    trail: Trail,
    *,
    image: ImageInfo | None,
    cache: CacheInfo | None,
) -> Result:
    """Return the result of an image whose ``answer`` is known now, in the stage of ``trail``."""
    timings = {**reference.timings, **trail.timings(time.time_ns())}
    return Result(
        **answer.recognised(),
        id=reference.id,
        source=reference.source,
        model=reference.model,
        version=reference.version,
        status=Status.OK,
        image=image,
        cache=cache,
        timings=_total(reference.received_ns, timings),
        trace_id=trail.trace_id,
    )


def _total(received_ns: int, timings: Mapping[str, float]) -> dict[str, float]:
    """Return the timings with ``total``, from the receipt of the image until now."""
    elapsed = (time.time_ns() - received_ns) / 1e6
    return {**timings, "total": round(elapsed, 3)}


def _message(reference: Reference, result: Result, handover: Handover | None) -> Message:
    """Return what tells a result to the caller who waits for it, or else to everybody."""
    body = result.to_json()
    if reference.reply is None:
        subject = subjects.result(reference.model, reference.source, reference.id)
        return Message(subject, body, _result_headers(reference, result))
    if handover is not None:
        return Message(reference.reply, *handover.behind(body))
    bad = result.status is not Status.OK
    return Message(reference.reply, body, {STATUS_HEADER: str(result.status)} if bad else None)


def _result_headers(reference: Reference, result: Result) -> dict[str, str]:
    headers = {
        "Content-Type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": header_value(result.id),
        "ce-source": f"visionmesh/{result.model}/{result.source}",
        "ce-type": f"io.visionmesh.result.{result.status}",
        "ce-time": result.time.isoformat(),
    }
    if reference.ack is not None:
        headers[EVENT_HEADER] = str(origin(reference.ack).sequence)
    if reference.parent_span is not None and reference.traceparent is not None:
        # Of a trace that began before the mesh: it may go on behind it.
        headers["traceparent"] = reference.traceparent
        if reference.tracestate is not None:
            headers["tracestate"] = reference.tracestate
    return headers
