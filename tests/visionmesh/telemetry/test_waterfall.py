import io
import json

import pytest
from rich.console import Console

from visionmesh.telemetry.context import new_span_id
from visionmesh.telemetry.kept import KeptSpan
from visionmesh.telemetry.spans import Key, SpanName
from visionmesh.telemetry.waterfall import Waterfall, arrange, as_data, by_image


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


def second(journey: list[KeptSpan]) -> list[KeptSpan]:
    """Return another image of the same trace, ten seconds later but in the batch of the first."""
    own = [kept for kept in journey if kept.span.trace_id == journey[0].span.trace_id]
    ids = {kept.span.span_id: new_span_id() for kept in own}
    later = [
        kept.span._replace(
            span_id=ids[kept.span.span_id],
            parent_id=ids.get(kept.span.parent_id or ""),
            start_ns=kept.span.start_ns + 10**10,
            end_ns=kept.span.end_ns + 10**10,
        )
        for kept in own
    ]
    later[0] = later[0]._replace(attributes={Key.MESSAGE_ID: "cam-7/000124"})
    batch = next(kept for kept in journey if kept.span.name == SpanName.BATCH)
    infer = next(kept.span for kept in own if kept.span.name == "process infer")
    link = (infer.trace_id, ids[infer.span_id])
    journey[journey.index(batch)] = batch._replace(
        span=batch.span._replace(links=(*batch.span.links[:-1], link))
    )
    return [KeptSpan(kept.service, span) for kept, span in zip(own, later, strict=True)]


def test_images_of_one_trace_are_told_apart_and_share_their_batch(journey: list[KeptSpan]) -> None:
    other = second(journey)
    first, last = by_image([*other, *journey])
    assert sorted(kept.span.span_id for kept in first) == sorted(k.span.span_id for k in journey)
    assert {as_data(image)["id"] for image in (first, last)} == {"cam-7/000123", "cam-7/000124"}
    assert as_data(first)["duration_ms"] == pytest.approx(18.4)
    names = [row.stem + row.kept.span.name for row in arrange(last)]
    at = names.index("├─ process infer")
    assert names[at + 1 : at + 3] == ["│  ╰─ batch", "│     ╰─ engine"]
    assert len(last) == len(other) + 2


def test_an_event_s_id_asks_for_its_image_alone(journey: list[KeptSpan]) -> None:
    spans = [*journey, *second(journey)]
    [found] = by_image(spans, "cam-7/000124")
    assert as_data(found)["id"] == "cam-7/000124"
    assert len(by_image(spans, journey[0].span.trace_id)) == 2


def test_spans_of_an_image_that_has_not_ended_stay_together(journey: list[KeptSpan]) -> None:
    unended = journey[1:]
    assert by_image(unended) == [unended]


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
