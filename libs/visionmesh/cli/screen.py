"""What the demo shows while it runs: a live table, or a line now and then without a terminal."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from datetime import timedelta
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from visionmesh.cli.load import Measured
from visionmesh.cli.results import line
from visionmesh.contracts import Result

_LINE_EVERY = timedelta(seconds=2)
_RESULTS_SHOWN = 8


class Screen:
    """Shows ``measured``, the queues and the last results; a context manager."""

    def __init__(self, *, console: Console, measured: Measured, title: str) -> None:
        self._console = console
        self._measured = measured
        self._title = title
        self._last = deque[Result](maxlen=_RESULTS_SHOWN)
        self._next_line = time.monotonic() + _LINE_EVERY.total_seconds()
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def note(self, result: Result) -> None:
        self._last.append(result)

    def show(self, depths: Mapping[str, int]) -> None:
        """Show the present state; ``depths`` are the messages in each stream."""
        if self._console.is_terminal:
            self._live.update(self._table(depths), refresh=True)
        elif time.monotonic() >= self._next_line:
            self._next_line += _LINE_EVERY.total_seconds()
            queues = " ".join(f"{name} {depth}" for name, depth in depths.items())
            self._console.print(f"{self._now()}; queues: {queues}", soft_wrap=True)

    def _now(self) -> str:
        return summary(self._measured, rate=self._measured.recent_rate())

    def _table(self, depths: Mapping[str, int]) -> RenderableType:
        numbers = Table.grid(padding=(0, 2))
        numbers.add_row("images", Text(self._now(), style="bold"))
        numbers.add_row("queues", "  ".join(f"{name} {depth}" for name, depth in depths.items()))
        results = Table.grid()
        for result in reversed(self._last):
            results.add_row(line(result))
        return Panel(Group(numbers, Text(), results), title=self._title, title_align="left")


def summary(measured: Measured, *, rate: float) -> str:
    """Return throughput (``rate`` in images per second), latency and cache hits in one line."""
    times = "/".join(f"{value:.0f}" for value in measured.percentiles().values()) or "-"
    return (
        f"{measured.answered} answered, {rate:.0f}/s, "
        f"p50/p95/p99 {times} ms, {measured.cached} from the cache, {measured.failed} failed"
    )
