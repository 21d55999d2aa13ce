from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.references import make_reference, new_traceparent
from visionmesh.contracts import Reference
from visionmesh.errors import Code
from visionmesh.settings import TracingSettings
from visionmesh.telemetry.kept import read_trace
from visionmesh.telemetry.spans import Key, Span
from visionmesh.telemetry.tracing import Tracing
from visionmesh.trail import Trail


@contextmanager
def trail_of(
    reference: Reference, state_dir: Path, *, stage: str = "infer", stream: str = "TENSORS"
) -> Iterator[Trail]:
    """Yield the trail of an image in a stage; its spans are kept in the end."""
    tracing = Tracing(
        settings=TracingSettings(), service=stage, node="n", state_dir=state_dir, environment={}
    )
    yield Trail(
        tracing=tracing,
        stage=stage,
        stream=stream,
        reference=reference,
        arrived_ns=time.time_ns() if stage == "ingest" else 0,
    )
    tracing.close()


def kept(state_dir: Path, trail: Trail) -> dict[str, Span]:
    assert trail.trace_id is not None
    spans = [each.span for each in read_trace(state_dir, trail.trace_id)]
    by_name = {span.name: span for span in spans}
    assert len(by_name) == len(spans)
    return by_name


def test_timings_are_the_milliseconds_in_the_queue_and_in_the_stage(tmp_path: Path) -> None:
    sent_ns = time.time_ns() - 50_000_000
    with trail_of(make_reference(sent_ns=sent_ns), tmp_path) as trail:
        assert trail.queued_ns == trail.began_ns - sent_ns
        assert trail.timings(trail.began_ns + 12_345_678) == {
            "infer_queue": round((trail.began_ns - sent_ns) / 1e6, 3),
            "infer": 12.346,
        }


def test_what_came_without_a_queue_has_not_waited(tmp_path: Path) -> None:
    with trail_of(make_reference(sent_ns=0), tmp_path) as trail:
        assert trail.timings(trail.began_ns) == {"infer_queue": 0.0, "infer": 0.0}


def test_a_closed_trail_says_how_long_the_stage_had_the_image(tmp_path: Path) -> None:
    with trail_of(make_reference(), tmp_path) as trail:
        assert trail.took_ns == 0
        trail.close()
        assert 0 < trail.took_ns <= time.time_ns() - trail.began_ns


def test_steps_are_told_as_spans_of_the_stage(tmp_path: Path) -> None:
    reference = make_reference(sent_ns=time.time_ns(), traceparent=new_traceparent())
    link = ("c" * 32, "d" * 16)
    with trail_of(reference, tmp_path) as trail:
        trail.step("batch", 1, 2, attributes={Key.BATCH_COUNT: 4}, links=[link])
        trail.sent("OUTPUTS", trail.began_ns)
        trail.close()
    spans = kept(tmp_path, trail)
    assert spans.keys() == {"process infer", "queue TENSORS", "batch", "publish OUTPUTS"}
    stage, batch = spans["process infer"], spans["batch"]
    assert trail.link == (stage.trace_id, stage.span_id)
    assert (batch.parent_id, batch.start_ns, batch.end_ns) == (stage.span_id, 1, 2)
    assert (batch.attributes, batch.links) == ({Key.BATCH_COUNT: 4}, (link,))
    assert stage.end_ns - stage.start_ns == trail.took_ns


@pytest.mark.parametrize(
    ("reply", "told"),
    [(None, {"queue EVENTS", "receive EVENTS"}), ("_INBOX.1", set())],
    ids=["event", "request"],
)
def test_only_an_event_has_waited_in_events(
    tmp_path: Path, reply: str | None, told: set[str]
) -> None:
    reference = make_reference(reply=reply, sent_ns=time.time_ns(), traceparent=new_traceparent())
    with trail_of(reference, tmp_path, stage="ingest", stream="EVENTS") as trail:
        trail.close()
    assert kept(tmp_path, trail).keys() == {"process ingest", *told}


def test_a_request_waits_in_the_streams_behind_ingest(tmp_path: Path) -> None:
    reference = make_reference(
        reply="_INBOX.1", sent_ns=time.time_ns(), traceparent=new_traceparent()
    )
    with trail_of(reference, tmp_path) as trail:
        trail.close()
    assert kept(tmp_path, trail).keys() == {"process infer", "queue TENSORS"}


def test_a_failure_is_told_with_its_code_and_the_attempt(tmp_path: Path) -> None:
    reference = make_reference(traceparent=new_traceparent(), attempt=3)
    with trail_of(reference, tmp_path) as trail:
        trail.fail(Code.BROKEN_IMAGE)
        trail.close()
    stage = kept(tmp_path, trail)["process infer"]
    assert not stage.ok
    assert stage.attributes[Key.ERROR] == Code.BROKEN_IMAGE
    assert stage.attributes[Key.DELIVERY] == 3


def test_a_trail_is_told_once(tmp_path: Path) -> None:
    with trail_of(make_reference(traceparent=new_traceparent()), tmp_path) as trail:
        trail.close()
        took = trail.took_ns
        trail.close()
    assert trail.took_ns == took
    assert len(kept(tmp_path, trail)) == 1


def test_an_image_that_is_not_sampled_leaves_no_span(tmp_path: Path) -> None:
    unsampled = new_traceparent()[:-2] + "00"
    for traceparent in (None, unsampled):
        with trail_of(make_reference(traceparent=traceparent), tmp_path) as trail:
            trail.step("batch", 1, 2)
            trail.sent("OUTPUTS", trail.began_ns)
            trail.close()
        assert (trail.sampled, trail.link, trail.trace_id) == (False, None, None)
    assert read_trace(tmp_path, unsampled.split("-")[1]) == []
