"""What a GPU's second slot gains by waiting for as many images as the first one runs.

    python -m bench.slots

A simulation, in which nothing runs and no clock counts: images are in flight in a loop, two slots
copy in, take turns to compute, and copy out, with times that are linear in the batch. The rules are
the batcher's own. Prints a table of images per second, and a JSON line.
"""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from services.infer.engines.device import powers
from services.infer.units import Units, fitting

MOST = 32
ROUND_TRIP = 3.0
"""Milliseconds from an answer to the next image of who had it, in the mean."""
DURATION = 4000.0
IN_FLIGHT = (8, 24, 32, 48, 64, 128)


class Line(NamedTuple):
    """Milliseconds for a batch."""

    each_batch: float
    each_image: float

    def of(self, images: int) -> float:
        return self.each_batch + self.each_image * images


class Shape(NamedTuple):
    """A network, by how long its batches take."""

    copy_in: Line
    compute: Line
    copy_out: Line


SHAPES = {
    "detector": Shape(Line(0.15, 0.03), Line(0.8, 0.25), Line(0.1, 0.08)),
    "classifier": Shape(Line(0.12, 0.01), Line(0.5, 0.06), Line(0.05, 0.001)),
    "copies cost most": Shape(Line(0.3, 0.2), Line(0.6, 0.15), Line(0.1, 0.1)),
    "size costs little": Shape(Line(0.1, 0.02), Line(3.0, 0.02), Line(0.1, 0.02)),
}

Rule = Callable[[int, int, dict[int, list[float]]], int]
"""Returns how many of the waiting images a slot takes: of a slot, the waiting, what runs where."""


def at_once(slot: int, waiting: int, running: dict[int, list[float]]) -> int:
    return fitting(powers(MOST), min(waiting, MOST))


def as_many(slot: int, waiting: int, running: dict[int, list[float]]) -> int:
    taken = at_once(slot, waiting, running)
    return taken if taken >= Units(("gpu", "gpu")).ahead(slot, running) else 0


@dataclass
class Gpu:
    """Two slots, and who waits for them."""

    shape: Shape
    rule: Rule
    free_at: float = 0.0
    waiting: list[float] = field(default_factory=list)
    running: dict[int, list[float]] = field(default_factory=dict)

    def start(self, now: float) -> Iterator[tuple[float, int]]:
        """Yield when each slot that can begin now will have finished."""
        for slot in {0, 1} - self.running.keys():
            count = self.rule(slot, len(self.waiting), self.running) if self.waiting else 0
            if not count:
                continue
            self.running[slot], self.waiting = self.waiting[:count], self.waiting[count:]
            filled = next(size for size in powers(MOST) if size >= count)
            ready = max(now + self.shape.copy_in.of(count), self.free_at)
            self.free_at = ready + self.shape.compute.of(filled)
            yield self.free_at + self.shape.copy_out.of(count), slot


def images_per_s(shape: Shape, rule: Rule, in_flight: int) -> float:
    chance = random.Random(1)
    gpu, done, number = Gpu(shape, rule), 0, 0
    events = [(chance.uniform(0, ROUND_TRIP), number, -1) for number in range(in_flight)]
    heapq.heapify(events)
    number = in_flight
    while events[0][0] < DURATION:
        now, _, slot = heapq.heappop(events)
        if slot < 0:
            gpu.waiting.append(now)
        else:
            for _ in gpu.running.pop(slot):
                done, number = done + 1, number + 1
                back = now + ROUND_TRIP * chance.uniform(0.5, 1.5)
                heapq.heappush(events, (back, number, -1))
        for end, taken in gpu.start(now):
            number += 1
            heapq.heappush(events, (end, number, taken))
    return done / DURATION * 1e3


def main() -> None:
    figures: dict[str, dict[int, list[int]]] = {}
    print(f"{'images in flight':<20}" + "".join(f"{count:>16}" for count in IN_FLIGHT))
    for name, shape in SHAPES.items():
        pairs = {
            count: [round(images_per_s(shape, rule, count)) for rule in (at_once, as_many)]
            for count in IN_FLIGHT
        }
        print(f"{name:<20}" + "".join(f"{f'{a} -> {b}':>16}" for a, b in pairs.values()))
        figures[name] = pairs
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
