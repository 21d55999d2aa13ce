"""What the demo shows, read from a terminal's and from a file's text."""

from __future__ import annotations

import time
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from tests.references import make_reference, make_result
from visionmesh.cli.load import Measured
from visionmesh.cli.screen import Screen
from visionmesh.contracts import CacheInfo, ClassScore

DEPTHS = {"EVENTS": 12, "IMAGES": 3, "TENSORS": 0, "OUTPUTS": 7}
SUMMARY = "101 answered, 20/s, p50/p95/p99 51/96/100 ms, 17 from the cache, 4 failed"


def measured() -> Measured:
    """Return what was measured of 101 results, from 1 to 101 ms, 40 of them in the last moments."""
    now = time.monotonic()
    known = Measured(began=now - 60, published=120, answered=101, failed=4, cached=17)
    known.latencies.extend(number / 1000 for number in range(1, 102))
    known.arrivals.extend([now - 30] * 61 + [now] * 40)
    return known


def console(**options: Any) -> Console:
    return Console(record=True, width=100, file=StringIO(), **options)


def test_a_terminal_shows_figures_queues_and_the_last_results() -> None:
    terminal = console(force_terminal=True)
    with Screen(console=terminal, measured=measured(), title="boards") as screen:
        for number in range(10):
            found = ClassScore(label=f"class-{number}", score=0.5)
            screen.note(
                make_result(
                    make_reference(id=f"event-{number}", source="cam", model="m"),
                    classes=(found,),
                    cache=CacheInfo(hit=True, level="result") if number == 9 else None,
                    timings={"total": number + 0.25},
                )
            )
        screen.show(DEPTHS)
        rows = [row.strip("│╭╮╰╯─ ") for row in terminal.export_text().splitlines()]
    title, images, queues, _, *results, bottom = rows
    assert (title, bottom) == ("boards", "")
    assert images.split(maxsplit=1) == ["images", SUMMARY]
    assert queues.split(maxsplit=1) == ["queues", "EVENTS 12  IMAGES 3  TENSORS 0  OUTPUTS 7"]
    # The latest first; the two that came before eight others are no longer there.
    assert [row.split(maxsplit=1)[1] for row in results] == [
        "m cam/event-9 ok class-9 50%  9.2 ms cached",
        *(f"m cam/event-{n} ok class-{n} 50%  {n}.2 ms" for n in range(8, 1, -1)),
    ]


def test_a_terminal_is_drawn_anew_each_time() -> None:
    terminal, known = console(force_terminal=True), Measured()
    with Screen(console=terminal, measured=known, title="boards") as screen:
        screen.show({"EVENTS": 1})
        assert "0 answered, 0/s, p50/p95/p99 - ms" in terminal.export_text()
        known.answered = 5
        screen.show({"EVENTS": 2})
        now = terminal.export_text()
    assert "5 answered" in now
    assert "EVENTS 2" in now


def test_a_file_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visionmesh.cli.screen._LINE_EVERY", timedelta(0))
    file = console(force_terminal=False)
    with Screen(console=file, measured=measured(), title="boards") as screen:
        screen.show(DEPTHS)
    assert file.export_text() == (f"{SUMMARY}; queues: EVENTS 12 IMAGES 3 TENSORS 0 OUTPUTS 7\n")
