"""How many images per second several ways to run a network do, measured in turns."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import NamedTuple, TypeVar

from services.infer.engines import Engine, Image
from visionmesh.errors import VisionmeshError

_ROUNDS = 5
"""Of which the median counts."""
_HOPELESS = 0.6
"""What does less than this share of the best in the first round is not measured again."""

Name = TypeVar("Name", bound=Hashable)


class Speed(NamedTuple):
    images_per_s: float
    """With full batches, on all engines at once."""
    latency_ms: float
    """Of one image, alone."""


@dataclass(frozen=True)
class _Runner:
    engines: Sequence[Engine]
    images: Sequence[Image]
    batch: int
    rates: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)

    def warm(self) -> None:
        """Do first-time work for the sizes that are measured: a worker does it for all."""
        for engine in self.engines:
            engine.run(self.images[:1])
            engine.run(list(islice(cycle(self.images), self._size)))

    def turn(self, seconds: float) -> None:
        began = time.perf_counter()
        self.engines[0].run(self.images[:1])
        self.delays.append(time.perf_counter() - began)
        self.rates.append(self._rate(seconds))

    def _rate(self, seconds: float) -> float:
        """Return images per second with each engine at work in a thread of its own."""
        rates: list[float] = []
        failures: list[VisionmeshError] = []

        def work(engine: Engine) -> None:
            images = cycle(self.images)
            done, began, spent = 0, time.perf_counter(), 0.0
            try:
                while not done or spent < seconds:
                    engine.run(list(islice(images, self._size)))
                    done += self._size
                    spent = time.perf_counter() - began
                rates.append(done / spent)
            except VisionmeshError as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(engine,)) for engine in self.engines]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return sum(rates)

    @property
    def _size(self) -> int:
        sizes = self.engines[0].batch_sizes
        return max((size for size in sizes if size <= self.batch), default=sizes[0])

    @property
    def speed(self) -> Speed:
        return Speed(statistics.median(self.rates), statistics.median(self.delays) * 1e3)


def race(
    entrants: Mapping[Name, Sequence[Engine]],
    images: Sequence[Image],
    *,
    batch: int,
    seconds: float,
    keep: Name,
) -> dict[Name, Speed]:
    """Return the speed of each entrant, engines that work together.

    All take turns, so that whatever else the machine does hits them alike. Those that are far
    behind drop out after the first round, except ``keep``. ``seconds`` are for all together; one
    batch of each entrant in each round is measured in any case.

    Raises
    ------
    Reject, Fatal
        If an engine fails on one of the images, ``(height, width, channels) uint8``.
    """
    runners = {name: _Runner(engines, images, batch) for name, engines in entrants.items()}
    for runner in runners.values():
        runner.warm()
    running, end = dict(runners), time.perf_counter() + seconds
    for left in range(_ROUNDS, 0, -1):
        share = max(0.0, end - time.perf_counter()) / left / len(running)
        for runner in running.values():
            runner.turn(share)
        best = max(runner.rates[-1] for runner in running.values())
        if left == _ROUNDS:
            running = {
                name: runner
                for name, runner in running.items()
                if name == keep or runner.rates[-1] >= _HOPELESS * best
            }
    return {name: runner.speed for name, runner in runners.items()}
