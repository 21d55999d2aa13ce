"""Two versions of a model on the same images: do they say the same, and which is faster?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from services.infer.engines import Engine, Image, Outputs
from visionmesh.contracts import Frozen
from visionmesh.models.agreement import Seen, accuracy, alike, first_class
from visionmesh.models.pictures import gather
from visionmesh.models.running import Here
from visionmesh.models.spec import ModelSpec
from visionmesh.models.trial import Subject
from visionmesh.workbench import Workbench

SHOWN = 5
"""Images that are named, of those on which the answers differ most."""


class Side(Frozen):
    """What one version did."""

    ran: str
    """Engine, precision and threads."""
    why: str
    """… these."""
    answered: int
    """Images that it could answer."""
    accuracy: float | None
    """Share of images whose first class is the true one, where the images' folders tell it."""
    p50_ms: float
    """Of the engine, one image at a time."""
    p99_ms: float


class Difference(Frozen):
    file: str
    agreement: float


class Comparison(Frozen):
    images: int
    agreement: float
    """How much of all answers is equal, from 0 to 1; see `likeness`."""
    equal: int
    """Images on which both say entirely the same."""
    first: Side
    second: Side
    differences: tuple[Difference, ...]
    """Where they agree least, worst first."""


class Contender(NamedTuple):
    """One version, and how it is run."""

    spec: ModelSpec
    weights: Path
    here: Here


@dataclass(frozen=True)
class _Timed:
    """An engine that keeps the milliseconds of each run."""

    engine: Engine
    times: list[float] = field(default_factory=list)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        return self.engine.batch_sizes

    def run(self, images: Sequence[Image], *, home: bool = True) -> Outputs:
        began = time.perf_counter()
        outputs = self.engine.run(images, home=home)
        self.times.append((time.perf_counter() - began) * 1e3)
        return outputs

    def warm(self) -> None:
        self.engine.warm()

    def close(self) -> None:
        self.engine.close()


class _Runner:
    """One version with its engine, and what is measured of it."""

    def __init__(self, contender: Contender) -> None:
        self.bench = Workbench(contender.spec)
        self._here = contender.here
        self._engine = _Timed(self._here.running.open(self.bench, contender.weights))
        self._subject = Subject(bench=self.bench, engine=self._engine)
        self._said: list[str | None] = []
        self._answered = 0

    def look(self, encoded: bytes) -> Seen:
        """Return what comes of one image."""
        seen = self._subject.look(self.bench.sample(encoded))
        self._said.append(first_class(seen.answer))
        self._answered += seen.answer is not None
        return seen

    def side(self, truths: Sequence[str | None]) -> Side:
        times = self._engine.times
        p50, p99 = np.percentile(times, [50, 99]) if times else (0.0, 0.0)
        return Side(
            ran=str(self._here.running),
            why=self._here.why,
            answered=self._answered,
            accuracy=accuracy(self._said, truths),
            p50_ms=round(float(p50), 3),
            p99_ms=round(float(p99), 3),
        )

    def close(self) -> None:
        self._engine.close()


def compare(first: Contender, second: Contender, images: Path, *, most: int = 500) -> Comparison:
    """Run two versions on up to ``most`` images below ``images``, image by image.

    They take turns, so that whatever else the machine does meanwhile hits both alike.

    Raises
    ------
    ConfigurationError
        (images_missing) if there is no image that can be decoded; (model_invalid) if a network
        cannot be loaded.
    """
    runners = _Runner(first), _Runner(second)
    pictures = gather(images, runners[0].bench, most=most)
    equal = compared = 0.0
    shares: list[Difference] = []
    truths: list[str | None] = []
    for file, (encoded, truth) in zip(pictures.files, pictures, strict=True):
        # Who comes second finds the caches warmer.
        order = (0, 1) if len(shares) % 2 else (1, 0)
        seen = {number: runners[number].look(encoded) for number in order}
        part, whole = alike(seen[0], seen[1])
        truths.append(truth)
        equal, compared = equal + part, compared + whole
        name = str(file.relative_to(pictures.root))
        shares.append(Difference(file=name, agreement=part / whole if whole else 1.0))
    for runner in runners:
        runner.close()
    unequal = sorted((one for one in shares if one.agreement < 1), key=lambda one: one.agreement)
    return Comparison(
        images=len(shares),
        agreement=equal / compared if compared else 1.0,
        equal=len(shares) - len(unequal),
        first=runners[0].side(truths),
        second=runners[1].side(truths),
        differences=tuple(unequal[:SHOWN]),
    )
