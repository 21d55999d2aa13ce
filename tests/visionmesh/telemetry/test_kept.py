import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import orjson
import pytest

from visionmesh.telemetry.context import new_span_id, new_trace_id
from visionmesh.telemetry.kept import KeptSpan, SpanFiles, read_trace
from visionmesh.telemetry.spans import Key, Recorded, Span, SpanKind, Step, Visit

MEBIBYTE = 1 << 20


def make_span(*, trace_id: str | None = None) -> Span:
    return Span(
        name="decode image",
        trace_id=trace_id or new_trace_id(),
        span_id=new_span_id(),
        parent_id=None,
        start_ns=1,
        end_ns=2,
    )


def make_visit(root: Span, *, steps: Sequence[Step]) -> Visit:
    """Return the visit of an image, whose root span is ``root``, to the stage infer."""
    return Visit(
        stage="infer",
        stream="TENSORS",
        trace_id=root.trace_id,
        root_id=root.span_id,
        span_id=new_span_id(),
        model="faces",
        sent_ns=10,
        began_ns=20,
        ended_ns=32,
        attempt=1,
        error="",
        steps=steps,
    )


def keep(state_dir: Path, kept: Sequence[tuple[str, Recorded]]) -> None:
    for service, group in groupby(sorted(kept, key=itemgetter(0)), key=itemgetter(0)):
        files = SpanFiles(state_dir=state_dir, service=service, keep_bytes=MEBIBYTE)
        assert files.write([recorded for _, recorded in group])
        files.close()


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("by_event", [True, False])
def test_a_trace_is_found_by_its_own_id_and_by_the_events(
    tmp_path: Path, journey: list[KeptSpan], by_event: bool
) -> None:
    keep(tmp_path, [*journey, KeptSpan("infer", make_span()), KeptSpan("ingest", make_span())])
    found = read_trace(tmp_path, "cam-7/000123" if by_event else journey[0].span.trace_id)
    assert sorted(found) == sorted(journey)
    assert [each.span.start_ns for each in found] == sorted(each.span.start_ns for each in journey)


def test_a_batch_in_the_trace_of_another_image_brings_only_its_own_spans(tmp_path: Path) -> None:
    mine, others = new_trace_id(), new_trace_id()
    image = make_span(trace_id=mine)
    batch = make_span(trace_id=others)._replace(links=((mine, image.span_id),))
    engine = make_span(trace_id=others)._replace(parent_id=batch.span_id)
    stranger = make_span(trace_id=others)
    keep(tmp_path, [KeptSpan("infer", span) for span in (image, batch, engine, stranger)])
    assert {kept.span.span_id for kept in read_trace(tmp_path, mine)} == {
        image.span_id,
        batch.span_id,
        engine.span_id,
    }


@pytest.mark.parametrize("event_id", ['quo"ted', "back\\slash", "line\nbreak", "snö", "a" * 500])
def test_any_event_id_is_found(tmp_path: Path, event_id: str) -> None:
    span = make_span()._replace(
        kind=SpanKind.CONSUMER, ok=False, attributes={Key.MESSAGE_ID: event_id, Key.DELIVERY: 2}
    )
    keep(tmp_path, [KeptSpan("ingest", span), KeptSpan("ingest", make_span())])
    assert read_trace(tmp_path, event_id) == [KeptSpan("ingest", span)]


def test_an_unknown_id_and_an_absent_folder_give_nothing(tmp_path: Path) -> None:
    assert read_trace(tmp_path / "absent", "x") == []
    keep(tmp_path, [KeptSpan("ingest", make_span())])
    assert read_trace(tmp_path, "x") == []


def test_a_line_still_being_written_is_left_out(tmp_path: Path) -> None:
    whole = make_span()
    keep(tmp_path, [KeptSpan("ingest", whole)])
    (path,) = (tmp_path / "spans").iterdir()
    line = path.read_bytes()
    path.write_bytes(line + line[:-10])
    assert read_trace(tmp_path, whole.trace_id) == [KeptSpan("ingest", whole)]


def test_a_process_keeps_its_newest_spans_within_its_bytes(tmp_path: Path) -> None:
    files = SpanFiles(state_dir=tmp_path, service="infer", keep_bytes=20_000)
    spans = [make_span() for _ in range(400)]
    for start in range(0, len(spans), 10):
        assert files.write(spans[start : start + 10])
    files.close()
    folder = tmp_path / "spans"
    names = {f"infer-{os.getpid()}.jsonl", f"infer-{os.getpid()}.old.jsonl"}
    assert {path.name for path in folder.iterdir()} == names
    assert 10_000 < sum(path.stat().st_size for path in folder.iterdir()) <= 20_000
    assert read_trace(tmp_path, spans[-1].trace_id) == [KeptSpan("infer", spans[-1])]
    assert read_trace(tmp_path, spans[0].trace_id) == []


def test_files_of_ended_processes_go_oldest_first_and_living_ones_stay(tmp_path: Path) -> None:
    folder = tmp_path / "spans"
    folder.mkdir()
    dead = ended_process()
    for age, name in enumerate((f"a-{dead}", f"b-{dead}.old", f"c-{os.getpid()}")):
        path = folder / f"{name}.jsonl"
        path.write_bytes(b"x" * 600 + b"\n")
        os.utime(path, (1000 + age, 1000 + age))
    SpanFiles(state_dir=tmp_path, service="infer", keep_bytes=1000).close()
    assert {path.name for path in folder.iterdir()} == {
        f"b-{dead}.old.jsonl",
        f"c-{os.getpid()}.jsonl",
        f"infer-{os.getpid()}.jsonl",
    }


def test_an_attribute_that_json_cannot_hold_costs_its_batch_only(tmp_path: Path) -> None:
    files = SpanFiles(state_dir=tmp_path, service="infer", keep_bytes=MEBIBYTE)
    good = make_span()
    assert not files.write([make_span()._replace(attributes={"huge": 1 << 70})])
    assert files.write([good])
    files.close()
    assert read_trace(tmp_path, good.trace_id) == [KeptSpan("infer", good)]


def test_kept_spans_are_json_lines_that_other_tools_can_read(tmp_path: Path) -> None:
    span = make_span()._replace(attributes={Key.MODEL: "faces"}, links=(("a" * 32, "b" * 16),))
    keep(tmp_path, [KeptSpan("infer", span)])
    (path,) = (tmp_path / "spans").iterdir()
    assert orjson.loads(path.read_bytes()) == [
        "infer",
        "decode image",
        span.trace_id,
        span.span_id,
        None,
        1,
        2,
        "internal",
        {"visionmesh.model": "faces"},
        [["a" * 32, "b" * 16]],
        True,
        "",
    ]


@pytest.mark.parametrize("by_event", [True, False])
def test_visits_are_found_as_the_spans_that_they_stand_for(tmp_path: Path, by_event: bool) -> None:
    root = make_span()._replace(attributes={Key.MESSAGE_ID: "cam-7/1"})
    step = Step("batch", 21, 29, {Key.BATCH_COUNT: 4}, ((new_trace_id(), new_span_id()),))
    visit = make_visit(root, steps=[step, Step("publish OUTPUTS", 30, 31, {}, ())])
    keep(tmp_path, [("infer", visit), KeptSpan("postprocess", root)])
    keep(tmp_path, [("infer", make_visit(make_span(), steps=[step]))])
    found = read_trace(tmp_path, "cam-7/1" if by_event else root.trace_id)
    assert len(found) == 5
    assert sorted(found) == sorted(
        [KeptSpan("postprocess", root), *(KeptSpan("infer", span) for span in visit.spans())]
    )


def test_a_batch_is_found_by_the_images_of_other_traces_that_it_is_linked_to(
    tmp_path: Path,
) -> None:
    first, second = make_span(), make_span()
    batch = Step("batch", 21, 29, {}, ((second.trace_id, second.span_id),))
    visit = make_visit(first, steps=[batch])
    keep(tmp_path, [("infer", visit), KeptSpan("infer", second)])
    names = {kept.span.name for kept in read_trace(tmp_path, second.trace_id)}
    assert names == {"decode image", "batch"}
