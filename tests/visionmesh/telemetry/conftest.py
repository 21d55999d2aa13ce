"""The spans of one image that went through all four services in a batch of six."""

from __future__ import annotations

from typing import Any

import pytest

from visionmesh.telemetry.context import new_span_id, new_trace_id
from visionmesh.telemetry.kept import KeptSpan
from visionmesh.telemetry.spans import Key, Link, Span, SpanKind, SpanName, messaging

START_NS = 1_790_000_000_000_000_000


def kept(service: str, name: str, start_ms: float, end_ms: float, **more: Any) -> KeptSpan:
    """Return a span of ``service``; times count from the image's publication."""
    fields: dict[str, Any] = {
        "span_id": new_span_id(),
        "kind": SpanKind.INTERNAL,
        "start_ns": START_NS + round(start_ms * 1e6),
        "end_ns": START_NS + round(end_ms * 1e6),
    }
    return KeptSpan(service, Span(name=name, **(fields | more)))


@pytest.fixture
def journey() -> list[KeptSpan]:
    """Return eleven spans of two services and more, the batch in a trace of its own."""
    trace, root, infer = new_trace_id(), new_span_id(), new_span_id()
    own = {"trace_id": trace, "parent_id": root}
    produced, consumed = own | {"kind": SpanKind.PRODUCER}, own | {"kind": SpanKind.CONSUMER}
    image = {Key.MESSAGE_ID: "cam-7/000123", Key.MODEL: "board-defects", Key.STATUS: "ok"}
    whole = {"trace_id": trace, "parent_id": None, "span_id": root, "attributes": image}
    received = consumed | {"attributes": messaging("receive", "EVENTS")}
    return [
        kept("postprocess", SpanName.IMAGE, 0, 18.4, **whole),
        kept("ingest", SpanName.receive("EVENTS"), 0.2, 0.35, **received),
        kept("ingest", SpanName.publish("IMAGES"), 0.9, 1.4, **produced),
        kept("preprocess", SpanName.queue("IMAGES"), 1.4, 2.1, **own),
        kept("preprocess", SpanName.DECODE_IMAGE, 2.1, 5.7, **own),
        kept("infer", SpanName.queue("TENSORS"), 6.1, 8.0, **own),
        kept("infer", SpanName.process("infer"), 8.0, 15.2, **(consumed | {"span_id": infer})),
        *batch((trace, infer)),
        kept("postprocess", SpanName.DECODE_OUTPUTS, 16.0, 16.9, **own),
        kept("postprocess", SpanName.publish("RESULTS"), 16.9, 18.3, **produced),
    ]


def batch(image: Link) -> list[KeptSpan]:
    """Return the batch of ``image`` and five others, and the engine's run of it."""
    trace, span = new_trace_id(), new_span_id()
    others = [(new_trace_id(), new_span_id()) for _ in range(5)]
    of_batch = {"parent_id": None, "span_id": span, "attributes": {Key.BATCH_COUNT: 6}}
    return [
        kept(
            "infer", SpanName.BATCH, 8.1, 15.0, trace_id=trace, links=(image, *others), **of_batch
        ),
        kept("infer", SpanName.ENGINE, 9.0, 14.8, trace_id=trace, parent_id=span),
    ]
