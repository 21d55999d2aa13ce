"""Ways to run a network tried out on images: how near they come to a reference, and how fast."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from services.infer.engines import Engine, Image
from visionmesh.contracts import Frozen, Params
from visionmesh.errors import Code, ConfigurationError, Reject
from visionmesh.models.agreement import SCORE_SLACK, Agreement, Seen, Tally, accuracy, first_class
from visionmesh.models.pictures import Picture
from visionmesh.models.spec import InputSpec
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

    def look(self, sample: Sample) -> Seen:
        """Return what comes of one image."""
        try:
            outputs = self.engine.run([sample.pixels])
        except Reject:
            return Seen({}, None, None)
        try:
            answer = self.bench.read(outputs, 0, sample, Params())
            if answer.detections is None:
                return Seen(outputs, answer, answer)
            return Seen(outputs, answer, self._lenient.read(outputs, 0, sample, Params()))
        except Reject:
            return Seen(outputs, None, None)

    @cached_property
    def _lenient(self) -> Workbench:
        """What reads boxes, too, that score up to `SCORE_SLACK` less than is asked for."""
        output = self.bench.spec.output
        least = {"confidence": max(0.0, output.confidence - SCORE_SLACK)}
        own = {
            label: max(0.0, confidence - SCORE_SLACK)
            for label, confidence in output.class_confidence.items()
        }
        lenient = output.model_copy(update={**least, "class_confidence": own})
        return Workbench(self.bench.spec.model_copy(update={"output": lenient}))


def try_out(
    reference: Subject, others: Mapping[str, Subject], pictures: Iterable[Picture]
) -> tuple[Trial, dict[str, Trial]]:
    """Return how ``reference`` did, and each of ``others`` compared with it, by their names."""
    tallies = {name: Tally() for name in others}
    own = Tally()
    said: dict[str | None, list[str | None]] = {name: [] for name in (None, *others)}
    truths: list[str | None] = []
    for encoded, truth in pictures:
        truths.append(truth)
        wanted = reference.look(reference.bench.sample(encoded))
        own.add(wanted, wanted)
        said[None].append(first_class(wanted.answer))
        for name, subject in others.items():
            given = subject.look(subject.bench.sample(encoded))
            tallies[name].add(wanted, given)
            said[name].append(first_class(given.answer))
    trials = {
        name: Trial(agreement=tally.result(), accuracy=accuracy(said[name], truths))
        for name, tally in tallies.items()
    }
    return Trial(agreement=own.result(), accuracy=accuracy(said[None], truths)), trials


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


def drawn(spec: InputSpec, seed: int) -> bytes:
    """Return a PNG without meaning, coarse and fine, with all brightnesses and any colour."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (4, 4, 3), np.uint8)
    smooth = cv2.resize(coarse, (spec.width, spec.height), interpolation=cv2.INTER_CUBIC)
    noise = random.normal(0, 16, smooth.shape)
    _, encoded = cv2.imencode(".png", np.clip(smooth + noise, 0, 255).astype(np.uint8))
    return encoded.tobytes()


def lost(trial: Trial, original: float | None) -> float:
    """Return the share of what was right in the reference and is not in ``trial``.

    Of the accuracy (``original`` is the reference's), where the truth is known, else of the equal
    answers.
    """
    if trial.accuracy is None or original is None:
        return 1 - trial.agreement.answers
    return max(0.0, original - trial.accuracy)


def require_answers(network: Path, *, unanswered: int, images: int) -> None:
    """Raise `ConfigurationError` (model_invalid) if a reference has no answer for some images."""
    if unanswered:
        raise ConfigurationError(
            Code.MODEL_INVALID,
            f"{network.name} itself has no answer for {unanswered} of {images} images; "
            "see what `visionmesh verify` finds.",
        )


def cpu_name() -> str:
    """Return the processor's name as the system tells it."""
    info = Path("/proc/cpuinfo")
    told = info.read_text() if info.is_file() else ""
    names = (line.partition(":")[2].strip() for line in told.splitlines() if "model name" in line)
    return next(names, platform.processor() or platform.machine())
