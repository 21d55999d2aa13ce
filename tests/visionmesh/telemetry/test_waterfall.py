import io
import json

import pytest
from rich.console import Console

from visionmesh.telemetry.kept import KeptSpan
from visionmesh.telemetry.spans import Key, SpanName
from visionmesh.telemetry.waterfall import Waterfall, arrange, as_data


def draw(spans: list[KeptSpan], *, width: int = 100) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(Waterfall(spans))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_every_span_has_one_line_with_its_service_and_times(journey: list[KeptSpan]) -> None:
    lines = draw(journey)
    for kept in journey:
        took = f"{(kept.span.end_ns - kept.span.start_ns) / 1e6:.2f}"
        of_span = [line for line in lines if f"{kept.span.name} " in line and took in line]
        assert len(of_span) == 1, kept.span.name
        assert kept.service in of_span[0]


def test_the_heading_says_which_image_and_how_it_ended(journey: list[KeptSpan]) -> None:
    lines = draw(journey)
    assert lines[0].strip() == "cam-7/000123  board-defects  ok  18.40 ms"
    assert lines[1].endswith(journey[0].span.trace_id)


def test_a_batch_hangs_below_the_image_that_it_is_linked_to(journey: list[KeptSpan]) -> None:
    names = [row.stem + row.kept.span.name for row in arrange(journey)]
    at = names.index("├─ process infer")
    assert names[at + 1 : at + 3] == ["│  ╰─ batch", "│     ╰─ engine"]
    assert any("batch of 6 images" in line for line in draw(journey))


@pytest.mark.parametrize("width", [80, 100, 200])
def test_bars_lie_on_one_axis_as_wide_as_the_console(journey: list[KeptSpan], width: int) -> None:
    lines = draw(journey, width=width)
    axis = next(line for line in lines if line.startswith("span"))
    left, right = axis.index("ms  0") + 4, len(axis)
    assert right <= width
    bars = {
        name: line[left:right].rstrip()
        for line in lines
        for name in ("visionmesh", "publish")
        if f"{name} " in line
    }
    assert bars["visionmesh"] == "█" * (right - left)
    last = bars["publish"]  # the last one is that of the result, 16.9 to 18.3 of 18.4 ms
    assert len(last) - len(last.lstrip()) == int(16.9 / 18.4 * (right - left))


def test_a_failed_span_says_why(journey: list[KeptSpan]) -> None:
    span = journey[4].span._replace(ok=False, attributes={Key.ERROR: "broken_image"})
    lines = draw([*journey[:4], KeptSpan("preprocess", span)])
    assert any("decode image ✗ broken_image" in line for line in lines)


def test_spans_whose_parent_is_not_kept_are_still_shown(journey: list[KeptSpan]) -> None:
    without_root = [kept for kept in journey if kept.span.name != SpanName.IMAGE]
    assert len(arrange(without_root)) == len(journey) - 1
    assert arrange(without_root)[0].stem == ""


def test_a_span_that_took_no_time_is_still_seen(journey: list[KeptSpan]) -> None:
    span = journey[0].span
    (row,) = [
        line
        for line in draw([KeptSpan("ingest", span._replace(end_ns=span.start_ns))])
        if line.startswith("visionmesh image")
    ]
    assert row.rstrip().endswith("▏")


def test_nothing_kept_is_said_so() -> None:
    assert draw([]) == ["No spans are kept under this id."]
    assert as_data([]) == {"spans": []}


def test_the_data_are_json_with_times_from_the_first_span(journey: list[KeptSpan]) -> None:
    data = json.loads(json.dumps(as_data(journey)))
    assert data["id"] == "cam-7/000123"
    assert data["trace_id"] == journey[0].span.trace_id
    assert data["duration_ms"] == pytest.approx(18.4)
    assert data["start"].startswith("2026-09-21T14:13:20")
    by_name = {span["name"]: span for span in data["spans"]}
    assert len(data["spans"]) == len(journey)
    assert by_name["engine"]["offset_ms"] == pytest.approx(9.0)
    assert by_name["engine"]["duration_ms"] == pytest.approx(5.8)
    assert by_name["batch"]["shared_by"] == 6
    assert by_name["receive EVENTS"]["attributes"]["messaging.system"] == "nats"
