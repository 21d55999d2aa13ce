"""One figure of how far a build is, from the phases within phases that TensorRT tells of."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_WORTH = 0.01
"""Less is no news."""


@dataclass(slots=True)
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class Phases:
    """Follows the phases and calls ``tell`` with a growing share of 1 and what is done now."""

    def __init__(self, tell: Callable[[float, str], None]) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._running: dict[str, _Phase] = {}
        self._told = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        with self._lock:
            self._running[name] = _Phase(parent, max(steps, 1))

    def step(self, name: str, step: int) -> None:
        with self._lock:
            phase = self._running.get(name)
            if phase is not None:
                phase.done = max(phase.done, step + 1)
            share = self._share()
            news = share >= self._told + _WORTH
            if news:
                self._told = share
        if news:
            self._tell(share, name)

    def finish(self, name: str) -> None:
        with self._lock:
            self._running.pop(name, None)

    def _share(self) -> float:
        roots = [name for name, phase in self._running.items() if phase.parent is None]
        return min((self._within(name) for name in roots), default=0.0)

    def _within(self, name: str) -> float:
        phase = self._running[name]
        inner = [one for one, other in self._running.items() if other.parent == name]
        return min((phase.done + sum(map(self._within, inner))) / phase.steps, 1.0)


def monitor(trt: Any, phases: Phases) -> Any:
    """Return an ``IProgressMonitor`` of the runtime that tells ``phases``."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # there is no type information
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            phases.start(name, parent, steps)

        def step_complete(self, name: str, step: int) -> bool:
            phases.step(name, step)
            return True

        def phase_finish(self, name: str) -> None:
            phases.finish(name)

    return Monitor()
