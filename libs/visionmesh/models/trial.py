"""Ways to run a network tried out on images: how near they come to a reference, and how fast."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import cv2
import numpy as np

from services.infer.engines import Engine, Image, Outputs
from visionmesh.contracts import Answer, Frozen, Params
from visionmesh.errors import Reject
from visionmesh.models.agreement import Agreement, Tally
from visionmesh.models.pictures import Picture
from visionmesh.workbench import Sample, Workbench

_ROUNDS = (5, 50)
"""At least and at most, of all engines in turns …"""
_PATIENCE = timedelta(seconds=5)
"""… for about this long."""


class Trial(Frozen):
    """What an engine did on some images."""

    agreement: Agreement
    """With the reference."""
    accuracy: float | None = None
    """Share of images whose first class is the true one, where the truth is known."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An engine, and what makes its input and reads its outputs."""

    bench: Workbench
    engine: Engine

    def look(self, encoded: bytes) -> tuple[Outputs, Answer | None]:
        """Return outputs and answer for one image, `None` if none can be made of the outputs."""
        sample = self.bench.sample(encoded)
        try:
            outputs = self.engine.run([sample.pixels])
        except Reject:
            return {}, None
        try:
            return outputs, self.bench.read(outputs, 0, sample, Params())
        except Reject:
            return outputs, None


def compare(
    reference: Subject, others: Mapping[str, Subject], pictures: Iterable[Picture]
) -> tuple[Trial, dict[str, Trial]]:
    """Return how ``reference`` did, and each of ``others`` compared with it, by their names."""
    tallies = {name: Tally() for name in others}
    own = Tally()
    hits: dict[str | None, list[bool]] = {name: [] for name in (None, *others)}
    for encoded, truth in pictures:
        expected, wanted = reference.look(encoded)
        own.add(expected, wanted, expected, wanted)
        seen: dict[str | None, Answer | None] = {None: wanted}
        for name, subject in others.items():
            outputs, answer = subject.look(encoded)
            tallies[name].add(expected, wanted, outputs, answer)
            seen[name] = answer
        if truth is not None:
            for who, answer in seen.items():
                hits[who].append(_says(answer, truth))
    trials = {
        name: Trial(agreement=tally.result(), accuracy=_mean(hits[name]))
        for name, tally in tallies.items()
    }
    return Trial(agreement=own.result(), accuracy=_mean(hits[None])), trials


def in_turns(engines: Mapping[str, Engine], image: Image, *, batch: int = 1) -> dict[str, float]:
    """Return each engine's median milliseconds for ``batch`` times ``image``, measured in turns.

    In turns, so that whatever else the machine does meanwhile hits all of them alike.
    """
    least, most = _ROUNDS
    images = [image] * batch
    times: dict[str, list[float]] = {name: [] for name in engines}
    end = time.perf_counter() + _PATIENCE.total_seconds()
    for done in range(most):
        if done >= least and time.perf_counter() > end:
            break
        for name, engine in engines.items():
            began = time.perf_counter()
            engine.run(images)
            times[name].append((time.perf_counter() - began) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def synthetic(bench: Workbench, seed: int = 0) -> Sample:
    """Return an image without meaning but with all brightnesses, coarse and fine, in any colour."""
    size = bench.spec.input
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (4, 4, 3), np.uint8)
    pixels = cv2.resize(coarse, (size.width, size.height), interpolation=cv2.INTER_CUBIC)
    noise = random.normal(0, 16, pixels.shape)
    drawn = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    _, encoded = cv2.imencode(".png", drawn)
    return bench.sample(encoded.tobytes())


def cpu_name() -> str:
    """Return the processor's name as the system tells it."""
    info = Path("/proc/cpuinfo")
    told = info.read_text() if info.is_file() else ""
    names = (line.partition(":")[2].strip() for line in told.splitlines() if "model name" in line)
    return next(names, platform.processor() or platform.machine())


def _says(answer: Answer | None, truth: str) -> bool:
    return bool(answer and answer.classes and answer.classes[0].label == truth)


def _mean(hits: list[bool]) -> float | None:
    return statistics.fmean(hits) if hits else None
