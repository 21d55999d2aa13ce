"""One image's spans as a waterfall: for the eye in a terminal, and as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import cycle
from typing import Any, NamedTuple

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from visionmesh.telemetry.kept import KeptSpan, descendants
from visionmesh.telemetry.spans import Key, Span, SpanName

# Columns: of the time axis, and of the numbers and the gaps beside it.
_NARROWEST, _WIDEST = 16, 80
_NUMBERS = 22

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan")


class Row(NamedTuple):
    """One span, and where in the waterfall it lies."""

    kept: KeptSpan
    stem: str
    """The branches of the tree in front of the name."""
    offset_ms: float
    """From the start of the first span."""
    duration_ms: float
    shared_by: int
    """Images that this span served, 0 unless it is linked to them."""


def by_image(spans: Sequence[KeptSpan], wanted: str | None = None) -> list[list[KeptSpan]]:
    """Return the spans of each image, by their start; what several images share is with each.

    A producer may give one trace to many images. If ``wanted`` is an event's id among them, the
    images of other events are left out. What has no root that is kept is told apart by its parent.
    """
    known = {kept.span.span_id for kept in spans}
    tops: dict[str, set[str]] = {}
    for kept in sorted(spans, key=lambda kept: kept.span.start_ns):
        span = kept.span
        if _parent(span, known) is None:
            alone = span.name == SpanName.IMAGE or span.parent_id is None
            key = span.span_id if alone else str(span.parent_id)
            tops.setdefault(key, set()).add(span.span_id)
    images = [_with_shared(spans, top) for top in tops.values()]
    ids = [_event_id(image) for image in images]
    if wanted not in ids:
        return images
    return [image for image, id in zip(images, ids, strict=True) if id in {wanted, None}]


def arrange(spans: Sequence[KeptSpan]) -> list[Row]:
    """Return the rows of a waterfall: parents before children, siblings by their start.

    A batch hangs below the span of this trace that it is linked to. A span whose parent is not
    kept (a producer elsewhere, or lost) stands at the root.
    """
    known = {kept.span.span_id for kept in spans}
    children: dict[str | None, list[KeptSpan]] = {}
    for kept in sorted(spans, key=lambda kept: (kept.span.start_ns, -kept.span.end_ns)):
        children.setdefault(_parent(kept.span, known), []).append(kept)
    start_ns = min((kept.span.start_ns for kept in spans), default=0)
    return list(_walk(children, None, "", start_ns))


def as_data(spans: Sequence[KeptSpan]) -> dict[str, Any]:
    """Return what `Waterfall` shows as values that JSON can hold; times are in milliseconds."""
    rows = arrange(spans)
    if not rows:
        return {"spans": []}
    top = _top(rows)
    return {
        "trace_id": top.trace_id,
        "id": top.attributes.get(Key.MESSAGE_ID),
        "start": _time(min(row.kept.span.start_ns for row in rows)).isoformat(),
        "duration_ms": _total_ms(rows),
        "spans": [
            {
                "name": row.kept.span.name,
                "service": row.kept.service,
                "trace_id": row.kept.span.trace_id,
                "span_id": row.kept.span.span_id,
                "parent_id": row.kept.span.parent_id,
                "kind": str(row.kept.span.kind),
                "offset_ms": row.offset_ms,
                "duration_ms": row.duration_ms,
                "ok": row.kept.span.ok,
                "shared_by": row.shared_by,
                "attributes": dict(row.kept.span.attributes),
            }
            for row in rows
        ],
    }


class Waterfall:
    """The spans for a rich console, as wide as the console; below 75 columns it is cropped."""

    def __init__(self, spans: Sequence[KeptSpan]) -> None:
        self._rows = arrange(spans)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self._rows:
            yield Text("No spans are kept under this id.")
            return
        yield from _titles(self._rows)
        yield _table(self._rows, width=options.max_width)


def _table(rows: Sequence[Row], *, width: int) -> Table:
    total_ms = _total_ms(rows)
    services = dict.fromkeys(row.kept.service for row in rows)
    colours = dict(zip(services, cycle(_COLOURS), strict=False))
    labels = [_label(row) for row in rows]
    beside = max(label.cell_len for label in labels) + max(map(len, services)) + _NUMBERS
    bar_width = min(max(width - beside, _NARROWEST), _WIDEST)
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    table.add_column("span", no_wrap=True)
    table.add_column("service", no_wrap=True)
    table.add_column("at ms", justify="right", no_wrap=True, min_width=7)
    table.add_column("took ms", justify="right", no_wrap=True, min_width=7)
    table.add_column(_axis(total_ms, bar_width), no_wrap=True, min_width=bar_width)
    for row, label in zip(rows, labels, strict=True):
        colour = colours[row.kept.service]
        table.add_row(
            label,
            Text(row.kept.service, colour),
            f"{row.offset_ms:.2f}",
            f"{row.duration_ms:.2f}",
            Text(_bar(row, total_ms, bar_width), colour if row.kept.span.ok else "red"),
        )
    return table


def _with_shared(spans: Sequence[KeptSpan], top: set[str]) -> list[KeptSpan]:
    own = top | {kept.span.span_id for kept in descendants(spans, top)}
    linked = {
        kept.span.span_id for kept in spans if any(other in own for _, other in kept.span.links)
    }
    inside = own | linked | {kept.span.span_id for kept in descendants(spans, linked)}
    return [kept for kept in spans if kept.span.span_id in inside]


def _event_id(image: Sequence[KeptSpan]) -> str | None:
    ids = (kept.span.attributes.get(Key.MESSAGE_ID) for kept in image)
    return next((str(id) for id in ids if id is not None), None)


def _parent(span: Span, known: set[str]) -> str | None:
    if span.parent_id in known:
        return span.parent_id
    return next((linked for _, linked in span.links if linked in known), None)


def _walk(
    children: Mapping[str | None, Sequence[KeptSpan]], parent: str | None, stem: str, start_ns: int
) -> Iterator[Row]:
    siblings = children.get(parent, ())
    for kept in siblings:
        span = kept.span
        last = kept is siblings[-1]
        branch = "" if parent is None else "╰─ " if last else "├─ "
        yield Row(
            kept,
            stem + branch,
            (span.start_ns - start_ns) / 1e6,
            (span.end_ns - span.start_ns) / 1e6,
            len(span.links),
        )
        below = "" if parent is None else "   " if last else "│  "
        yield from _walk(children, span.span_id, stem + below, start_ns)


def _top(rows: Sequence[Row]) -> Span:
    spans = [row.kept.span for row in rows]
    return next((span for span in spans if span.name == SpanName.IMAGE), spans[0])


def _total_ms(rows: Sequence[Row]) -> float:
    return max(row.offset_ms + row.duration_ms for row in rows)


def _time(unix_ns: int) -> datetime:
    return datetime.fromtimestamp(unix_ns / 1e9, UTC)


def _titles(rows: Sequence[Row]) -> Iterator[Text]:
    top = _top(rows)
    shown = [top.attributes.get(key) for key in (Key.MODEL, Key.STATUS, Key.ERROR)]
    said = "  ".join(str(value) for value in shown if value is not None)
    name = str(top.attributes.get(Key.MESSAGE_ID, top.name))
    yield Text.assemble((name, "bold"), f"  {said}  {_total_ms(rows):.2f} ms")
    yield Text(f"{_time(top.start_ns):%Y-%m-%d %H:%M:%S}Z  trace {top.trace_id}\n", "dim")


def _label(row: Row) -> Text:
    span = row.kept.span
    label = Text.assemble((row.stem, "dim"), (span.name, "" if span.ok else "red"))
    if row.shared_by > 1:
        label.append(f" of {row.shared_by} images", "dim")
    if not span.ok:
        label.append(f" ✗ {span.attributes.get(Key.ERROR, '')}".rstrip(), "red")
    return label


def _axis(total_ms: float, width: int) -> Text:
    return Text("0" + f"{total_ms:.1f} ms".rjust(width - 1), "dim")


def _bar(row: Row, total_ms: float, width: int) -> str:
    """Draw from the offset, to an eighth of a character; the shortest span is still seen."""
    scale = width / total_ms if total_ms > 0 else 0.0
    start = min(int(row.offset_ms * scale), width - 1)
    eighths = min(round(row.duration_ms * scale * 8), (width - start) * 8)
    whole, rest = divmod(max(eighths, 1), 8)
    return " " * start + "█" * whole + (_EIGHTHS[rest] if rest else "")
