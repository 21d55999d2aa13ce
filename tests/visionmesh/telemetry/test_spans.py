from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visionmesh.telemetry.spans import Key, Span, SpanKind, Step, Visit, unfold

TRACE, ROOT, OWN = "a" * 32, "b" * 16, "00000000000000ff"
STEPS = (
    Step("decode image", 20, 24, {Key.BATCH_COUNT: 7}, ()),
    Step("batch", 21, 29, {}, (("c" * 32, "d" * 16),)),
    Step("publish TENSORS", 30, 31, {}, ()),
)


def make_visit(
    *,
    span_id: str = OWN,
    sent_ns: int = 10,
    attempt: int = 1,
    error: str = "",
    steps: tuple[Step, ...] = STEPS,
) -> Visit:
    return Visit(
        stage="preprocess",
        stream="IMAGES",
        trace_id=TRACE,
        root_id=ROOT,
        span_id=span_id,
        model="faces",
        sent_ns=sent_ns,
        began_ns=20,
        ended_ns=32,
        attempt=attempt,
        error=error,
        steps=steps,
    )


def by_name(visit: Visit) -> dict[str, Span]:
    return {span.name: span for span in visit.spans()}


@given(st.integers(1, (1 << 64) - 1), st.booleans(), st.lists(st.sampled_from(STEPS), max_size=6))
def test_equal_visits_yield_equal_spans_of_distinct_ids(
    own: int, queued: bool, steps: list[Step]
) -> None:
    visit = make_visit(span_id=f"{own:016x}", sent_ns=10 if queued else 0, steps=tuple(steps))
    spans = list(visit.spans())
    assert spans == list(visit._replace(steps=list(steps)).spans())
    ids = [span.span_id for span in spans]
    assert len(set(ids)) == len(ids) == 1 + queued + len(steps)
    assert all(len(each) == 16 and int(each, 16) >= 0 for each in ids)


def test_queue_and_stage_are_below_the_root_and_steps_below_the_stage() -> None:
    spans = by_name(make_visit())
    assert {span.trace_id for span in spans.values()} == {TRACE}
    assert {name: span.parent_id for name, span in spans.items()} == {
        "process preprocess": ROOT,
        "queue IMAGES": ROOT,
        "decode image": OWN,
        "batch": OWN,
        "publish TENSORS": OWN,
    }
    assert spans["process preprocess"].span_id == OWN


def test_each_span_has_the_times_and_the_kind_of_what_it_is() -> None:
    spans = by_name(make_visit())
    assert {name: (span.start_ns, span.end_ns, span.kind) for name, span in spans.items()} == {
        "process preprocess": (20, 32, SpanKind.CONSUMER),
        "queue IMAGES": (10, 20, SpanKind.INTERNAL),
        "decode image": (20, 24, SpanKind.INTERNAL),
        "batch": (21, 29, SpanKind.INTERNAL),
        "publish TENSORS": (30, 31, SpanKind.PRODUCER),
    }


def test_the_queue_ends_when_the_delivery_arrives_before_the_stage_begins() -> None:
    receive = Step("receive IMAGES", 15, 20, {}, ())
    spans = by_name(make_visit(steps=(receive, *STEPS)))
    assert [
        (spans[name].parent_id, spans[name].start_ns, spans[name].end_ns)
        for name in ("queue IMAGES", "receive IMAGES", "process preprocess")
    ] == [(ROOT, 10, 15), (ROOT, 15, 20), (ROOT, 20, 32)]


def test_what_a_request_brought_is_served_and_lay_in_no_stream() -> None:
    spans = by_name(make_visit()._replace(stream=""))
    assert spans.keys() == {"process preprocess", *(step.name for step in STEPS)}
    stage = spans["process preprocess"]
    assert (stage.kind, stage.attributes) == (SpanKind.SERVER, {Key.MODEL: "faces"})


def test_spans_say_what_the_visit_recorded() -> None:
    spans = by_name(make_visit())
    assert spans["decode image"].attributes == {Key.BATCH_COUNT: 7}
    assert spans["batch"].links == (("c" * 32, "d" * 16),)
    assert spans["publish TENSORS"].attributes == {
        "messaging.system": "nats",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "TENSORS",
    }
    assert spans["process preprocess"].attributes == {
        "messaging.system": "nats",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "IMAGES",
        "visionmesh.model": "faces",
    }


def test_an_image_that_came_without_a_stream_has_no_queue() -> None:
    assert "queue IMAGES" not in by_name(make_visit(sent_ns=0))


@pytest.mark.parametrize(("error", "ok"), [("", True), ("broken_image", False)])
def test_an_error_fails_the_stage_and_names_its_code(error: str, ok: bool) -> None:
    spans = by_name(make_visit(error=error))
    assert spans["process preprocess"].ok is ok
    assert spans["process preprocess"].attributes.get(Key.ERROR, "") == error
    assert spans["decode image"].ok


@pytest.mark.parametrize(("attempt", "told"), [(1, None), (2, 2), (7, 7)])
def test_a_redelivery_says_which_one_it_is(attempt: int, told: int | None) -> None:
    stage = by_name(make_visit(attempt=attempt))["process preprocess"]
    assert stage.attributes.get(Key.DELIVERY) == told


def test_unfolds_visits_among_spans_in_order() -> None:
    visit = make_visit()
    span = next(visit.spans())
    assert list(unfold([span, visit])) == [span, *visit.spans()]
