"""Spans kept as JSON lines in the state folder of an embedded mesh, and found there again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import psutil

from visionmesh.telemetry.spans import Key, Recorded, Span, SpanKind, Step, Visit

_FOLDER = "spans"


class KeptSpan(NamedTuple):
    """A span and the service that recorded it."""

    service: str
    span: Span


class SpanFiles:
    """Appends spans to ``<state_dir>/spans/<service>-<pid>.jsonl``.

    A process keeps at most ``keep_bytes``: a file that reaches half of it becomes
    ``<service>-<pid>.old.jsonl``, in place of the one before. Files of ended processes go, oldest
    first, while they hold more than ``keep_bytes``.
    """

    def __init__(self, *, state_dir: Path, service: str, keep_bytes: int) -> None:
        folder = state_dir / _FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        _remove_oldest(folder, keep_bytes=keep_bytes)
        self._service = service
        self._path = folder / f"{service}-{os.getpid()}.jsonl"
        self._limit = keep_bytes // 2
        self._file = self._path.open("ab", buffering=0)
        self._size = self._path.stat().st_size

    def write(self, spans: Sequence[Recorded]) -> bool:
        try:
            lines = b"".join(self._line(span) for span in spans)
            if self._size + len(lines) > self._limit:
                self._rotate()
            self._size += self._file.write(lines)
        except (OSError, ValueError, orjson.JSONEncodeError):
            # A full disk, a file closed meanwhile, or an attribute that JSON cannot hold costs
            # spans and nothing else.
            return False
        return True

    def close(self) -> None:
        self._file.close()

    def _line(self, recorded: Recorded) -> bytes:
        """Return a JSON array: the service, and the fields of a span or, longer, of a visit."""
        fields: list[Any] = [self._service, *recorded]
        if isinstance(recorded, Visit):
            fields[-1] = [tuple(step) for step in recorded.steps]
        return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)

    def _rotate(self) -> None:
        self._file.close()
        self._path.replace(self._path.with_suffix(".old.jsonl"))
        self._file = self._path.open("ab", buffering=0)
        self._size = 0


def read_trace(state_dir: Path, trace_or_event_id: str) -> list[KeptSpan]:
    """Return the kept spans of a trace, or of an event, by their start.

    Batches that the image was part of belong to it, also where they lie in another trace. Empty
    when nothing is kept under that id.
    """
    folder = state_dir / _FOLDER
    named = _find(folder, [_quoted(Key.MESSAGE_ID) + b":" + _quoted(trace_or_event_id)])
    traces = {kept.span.trace_id for kept in named} | {trace_or_event_id}
    found = _find(folder, [_quoted(trace) for trace in sorted(traces)])
    own = [kept for kept in found if kept.span.trace_id in traces]
    shared = [kept for kept in found if traces & {trace for trace, _ in kept.span.links}]
    elsewhere = {kept.span.trace_id for kept in shared} - traces
    below = descendants(
        _find(folder, [_quoted(trace) for trace in sorted(elsewhere)]),
        {kept.span.span_id for kept in shared},
    )
    by_id = {kept.span.span_id: kept for kept in (*own, *shared, *below)}
    return sorted(by_id.values(), key=lambda kept: (kept.span.start_ns, -kept.span.end_ns))


def descendants(kept: Sequence[KeptSpan], ancestors: set[str]) -> list[KeptSpan]:
    """Return those that lie below the spans with these ids, at any depth."""
    inside = set(ancestors)
    while new := {
        each.span.span_id
        for each in kept
        if each.span.parent_id in inside and each.span.span_id not in inside
    }:
        inside |= new
    return [each for each in kept if each.span.span_id in inside - ancestors]


def _quoted(text: str) -> bytes:
    return orjson.dumps(text)


def _find(folder: Path, needles: Iterable[bytes]) -> list[KeptSpan]:
    wanted = list(needles)
    lines: dict[bytes, None] = {}
    for path in sorted(folder.glob("*.jsonl")) if wanted else ():
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            continue  # rotated away meanwhile
        for needle in wanted:
            lines.update(dict.fromkeys(_lines_with(text, needle)))
    return [kept for line in lines for kept in _read(line)]


def _lines_with(text: bytes, needle: bytes) -> Iterator[bytes]:
    at = text.find(needle)
    while at >= 0:
        end = text.find(b"\n", at)
        if end < 0:
            return  # still being written
        yield text[text.rfind(b"\n", 0, at) + 1 : end]
        at = text.find(needle, end)


def _read(line: bytes) -> Iterator[KeptSpan]:
    service, *fields = orjson.loads(line)
    if len(fields) == len(Visit._fields):
        visit = Visit(*fields)
        spans = list(visit._replace(steps=[Step(*step) for step in visit.steps]).spans())
    else:
        spans = [Span(*fields)]
    for span in spans:
        links = tuple((trace, other) for trace, other in span.links)
        yield KeptSpan(service, span._replace(kind=SpanKind(span.kind), links=links))


def _remove_oldest(folder: Path, *, keep_bytes: int) -> None:
    left = []
    for path in folder.glob("*.jsonl"):
        pid = path.name.split(".")[0].rpartition("-")[2]
        if pid.isdigit() and psutil.pid_exists(int(pid)):
            continue
        with suppress(FileNotFoundError):  # another service that starts now was faster
            status = path.stat()
            left.append((status.st_mtime_ns, status.st_size, path))
    total = sum(size for _, size, _ in left)
    for _, size, path in sorted(left):
        if total <= keep_bytes:
            return
        path.unlink(missing_ok=True)
        total -= size
