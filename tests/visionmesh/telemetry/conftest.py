"""The spans of one image that went through all four services in a batch of six."""

from __future__ import annotations

import pytest

from visionmesh.telemetry.context import new_span_id, new_trace_id
from visionmesh.telemetry.kept import KeptSpan
from visionmesh.telemetry.spans import Key, Span, SpanKind, SpanName, messaging

START_NS = 1_790_000_000_000_000_000


@pytest.fixture
def journey() -> list[KeptSpan]:
    """Return eleven spans of two services and more, the batch in a trace of its own."""
    trace, batch_trace = new_trace_id(), new_trace_id()
    root, infer, batch = new_span_id(), new_span_id(), new_span_id()

    def span(name: str, parent: str | None, start_ms: float, end_ms: float, **more: object) -> Span:
        fields: dict[str, object] = {
            "trace_id": trace,
            "span_id": new_span_id(),
            "kind": SpanKind.INTERNAL,
            **more,
        }
        at = (START_NS + round(start_ms * 1e6), START_NS + round(end_ms * 1e6))
        return Span(name=name, parent_id=parent, start_ns=at[0], end_ns=at[1], **fields)  # type: ignore[arg-type]  # the tests say which

    image = {Key.MESSAGE_ID: "cam-7/000123", Key.MODEL: "board-defects", Key.STATUS: "ok"}
    others = [(new_trace_id(), new_span_id()) for _ in range(5)]
    return [
        KeptSpan(
            "postprocess", span(SpanName.IMAGE, None, 0, 18.4, span_id=root, attributes=image)
        ),
        KeptSpan(
            "ingest",
            span(
                SpanName.receive("EVENTS"),
                root,
                0.2,
                0.35,
                kind=SpanKind.CONSUMER,
                attributes=messaging("receive", "EVENTS"),
            ),
        ),
        KeptSpan(
            "ingest", span(SpanName.publish("IMAGES"), root, 0.9, 1.4, kind=SpanKind.PRODUCER)
        ),
        KeptSpan("preprocess", span(SpanName.queue("IMAGES"), root, 1.4, 2.1)),
        KeptSpan("preprocess", span(SpanName.DECODE_IMAGE, root, 2.1, 5.7)),
        KeptSpan("infer", span(SpanName.queue("TENSORS"), root, 6.1, 8.0)),
        KeptSpan(
            "infer",
            span(SpanName.process("infer"), root, 8.0, 15.2, span_id=infer, kind=SpanKind.CONSUMER),
        ),
        KeptSpan(
            "infer",
            span(
                SpanName.BATCH,
                None,
                8.1,
                15.0,
                trace_id=batch_trace,
                span_id=batch,
                links=((trace, infer), *others),
                attributes={Key.BATCH_COUNT: 6},
            ),
        ),
        KeptSpan("infer", span(SpanName.ENGINE, batch, 9.0, 14.8, trace_id=batch_trace)),
        KeptSpan("postprocess", span(SpanName.DECODE_OUTPUTS, root, 16.0, 16.9)),
        KeptSpan(
            "postprocess",
            span(SpanName.publish("RESULTS"), root, 16.9, 18.3, kind=SpanKind.PRODUCER),
        ),
    ]
