"""What one stage does to one image: its spans and timings."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from visionmesh.contracts import Reference
from visionmesh.errors import Code
from visionmesh.subjects import EVENTS
from visionmesh.telemetry.context import new_span_id, parse_traceparent
from visionmesh.telemetry.spans import AttributeValue, Link, SpanName, Step, Visit
from visionmesh.telemetry.tracing import Tracing


class Trail:
    """Collects the steps of one image in one stage; told as one `Visit` when it is over."""

    __slots__ = ("_error", "_reference", "_root", "_span_id", "_stage", "_steps", "_stream",
                 "_tracing", "began_ns", "queued_ns", "took_ns")  # fmt: skip

    def __init__(
        self,
        *,
        tracing: Tracing,
        stage: str,
        stream: str,
        reference: Reference,
        arrived_ns: int = 0,
    ) -> None:
        self._tracing = tracing
        self._stage = stage
        # A request skips EVENTS: its caller hands it to the first stage.
        self._stream = "" if stream == EVENTS and reference.reply is not None else stream
        self._reference = reference
        self._error = ""
        self._steps: list[Step] = []
        self.began_ns = time.time_ns()
        self.queued_ns = self.began_ns - (reference.sent_ns or self.began_ns)
        """How long the image waited for this stage."""
        self.took_ns = 0
        """How long the stage had it, once that is over."""
        context = parse_traceparent(reference.traceparent) if tracing.recording else None
        self._root = context if context is not None and context.sampled else None
        self._span_id = new_span_id() if self._root is not None else ""
        if arrived_ns and self._stream:
            self.step(SpanName.receive(stream), arrived_ns, self.began_ns)

    @property
    def sampled(self) -> bool:
        """Whether anybody will see these spans."""
        return self._root is not None

    @property
    def link(self) -> Link | None:
        """What a span of another trace names to point here."""
        return (self._root.trace_id, self._span_id) if self._root is not None else None

    @property
    def trace_id(self) -> str | None:
        """The trace of a sampled image."""
        return self._root.trace_id if self._root is not None else None

    def step(
        self,
        name: str,
        start_ns: int,
        end_ns: int,
        *,
        attributes: Mapping[str, AttributeValue] = {},
        links: Sequence[Link] = (),
    ) -> None:
        """Record a step within this stage; times are Unix time in nanoseconds."""
        if self._root is not None:
            self._steps.append(Step(name, start_ns, end_ns, attributes, links))

    def sent(self, stream: str, began_ns: int) -> None:
        """Record that the image was handed on to ``stream`` since ``began_ns``."""
        self.step(SpanName.publish(stream), began_ns, time.time_ns())

    def fail(self, reason: Code) -> None:
        """Mark the stage's span as failed."""
        self._error = reason

    def timings(self, now_ns: int) -> dict[str, float]:
        """Return the milliseconds in this stage's queue and in its hands until ``now_ns``."""
        return {
            f"{self._stage}_queue": round(self.queued_ns / 1e6, 3),
            self._stage: round((now_ns - self.began_ns) / 1e6, 3),
        }

    def close(self) -> None:
        """Tell what was recorded; a second call changes nothing."""
        if self.took_ns:
            return
        ended_ns = time.time_ns()
        self.took_ns = ended_ns - self.began_ns
        if self._root is not None:
            self._tracing.record(
                Visit(
                    self._stage,
                    self._stream,
                    self._root.trace_id,
                    self._root.span_id,
                    self._span_id,
                    self._reference.model,
                    self._reference.sent_ns,
                    self.began_ns,
                    ended_ns,
                    self._reference.attempt,
                    self._error,
                    self._steps,
                )
            )
