"""What one stage does to one image: its spans and timings."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from visionmesh.contracts import Reference
from visionmesh.errors import VisionmeshError
from visionmesh.telemetry.context import Context as TraceContext
from visionmesh.telemetry.context import new_span_id, parse_traceparent
from visionmesh.telemetry.spans import (
    AttributeValue,
    Key,
    Link,
    Span,
    SpanKind,
    SpanName,
    messaging,
)
from visionmesh.telemetry.tracing import Tracing


class Trail:
    """Collects the spans of one image in one stage; all hang below the image's root span."""

    def __init__(self, *, tracing: Tracing, stage: str, stream: str, reference: Reference) -> None:
        self._tracing = tracing
        self._stage = stage
        self._stream = stream
        self._reference = reference
        self._error: VisionmeshError | None = None
        self.began_ns = time.time_ns()
        context = parse_traceparent(reference.traceparent)
        self._root: TraceContext | None = context if context and context.sampled else None
        self._span_id = new_span_id() if self._root else ""

    @property
    def sampled(self) -> bool:
        """Whether anybody will see these spans."""
        return self._root is not None

    @property
    def trace_id(self) -> str | None:
        """The trace of a sampled image."""
        return self._root.trace_id if self._root else None

    @property
    def queued_ns(self) -> int:
        """How long the image waited for this stage."""
        return self.began_ns - (self._reference.sent_ns or self.began_ns)

    @property
    def link(self) -> Link | None:
        """What a span of another trace names to point here."""
        return (self._root.trace_id, self._span_id) if self._root else None

    def span(
        self,
        name: str,
        start_ns: int,
        end_ns: int,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, AttributeValue] = {},
        links: Sequence[Link] = (),
    ) -> None:
        """Record a step within this stage; times are Unix time in nanoseconds."""
        if self._root is not None:
            self._tracing.record(
                Span(
                    name,
                    self._root.trace_id,
                    new_span_id(),
                    self._span_id,
                    start_ns,
                    end_ns,
                    kind,
                    attributes,
                    links,
                )
            )

    def sent(self, stream: str, began_ns: int) -> None:
        """Record that the image was handed on to ``stream`` since ``began_ns``."""
        if self._root is not None:
            attributes = messaging("publish", stream)
            self.span(
                SpanName.publish(stream),
                began_ns,
                time.time_ns(),
                kind=SpanKind.PRODUCER,
                attributes=attributes,
            )

    def fail(self, error: VisionmeshError) -> None:
        """Mark the stage's span as failed."""
        self._error = error

    def timings(self, now_ns: int) -> dict[str, float]:
        """Return the milliseconds in this stage's queue and in its hands until ``now_ns``."""
        return {
            f"{self._stage}_queue": round(self.queued_ns / 1e6, 3),
            self._stage: round((now_ns - self.began_ns) / 1e6, 3),
        }

    def close(self) -> None:
        """Record the queue's and the stage's own span."""
        if self._root is None:
            return
        trace_id, parent, _ = self._root
        sent = self._reference.sent_ns
        if sent:
            attributes = {Key.DESTINATION: self._stream}
            self._tracing.record(
                Span(
                    SpanName.queue(self._stream),
                    trace_id,
                    new_span_id(),
                    parent,
                    sent,
                    self.began_ns,
                    SpanKind.INTERNAL,
                    attributes,
                )
            )
        more: dict[str, AttributeValue] = {Key.MODEL: self._reference.model}
        if self._error is not None:
            more[Key.ERROR] = self._error.code
        if self._reference.attempt > 1:
            more[Key.DELIVERY] = self._reference.attempt
        self._tracing.record(
            Span(
                SpanName.process(self._stage),
                trace_id,
                self._span_id,
                parent,
                self.began_ns,
                time.time_ns(),
                SpanKind.CONSUMER,
                messaging("process", self._stream, more=more),
                (),
                self._error is None,
            )
        )
