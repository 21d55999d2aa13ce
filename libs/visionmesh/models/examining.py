"""What can be found out of one network: by itself, and beside what it came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from visionmesh.contracts import Frozen
from visionmesh.errors import ConfigurationError
from visionmesh.models.agreement import MOST_LOST
from visionmesh.models.footprint import footprint
from visionmesh.models.pictures import Picture, Pictures
from visionmesh.models.running import Running
from visionmesh.models.soundness import RUNS, Check, engine_checks, sizes_of
from visionmesh.models.trial import Subject, Trial, in_turns, lost, try_out
from visionmesh.workbench import Workbench

_SAME = 1e-3
"""Largest error between two forms of one network, in parts of the largest output value."""
_PROBES = 4
"""Images that each network is examined with by itself."""


class Verified(Frozen):
    """What was found of one network."""

    file: str
    way: str | None = None
    """Engine, precision and threads of the tuned way; all else is run by ONNX Runtime alone."""
    against: str | None
    """What it was compared with."""
    trial: Trial | None
    """How that went."""
    checks: tuple[Check, ...]
    ms: dict[int, float]
    """Median milliseconds of a batch, by its size."""
    memory_bytes: int
    """By which a process grows that has run every batch size."""

    @property
    def name(self) -> str:
        return f"{self.file} ({self.way})" if self.way else self.file

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a network is compared with."""

    name: str
    subject: Subject
    same: bool
    """It is another form of the network: outputs of the same name have the same values."""


@dataclass(frozen=True, kw_only=True)
class Examiner:
    """Looks at networks of one model, all with the same images."""

    bench: Workbench
    pictures: Sequence[Picture] | Pictures
    real: bool
    said: Callable[[str], None]

    def examine(self, weights: Path, running: Running, reference: Reference | None) -> Verified:
        """Look at a network by itself, and beside ``reference``.

        Raises `ConfigurationError` (model_invalid) if it cannot be loaded.
        """
        self.said(f"examining {weights.name} with {running}")
        engine = running.open(self.bench, weights)
        samples = [self.bench.sample(one.encoded) for one in islice(self.pictures, _PROBES)]
        checks = engine_checks(self.bench, engine, samples, running.precision)
        trial = None
        if reference is not None:
            subject = Subject(bench=self.bench, engine=engine)
            own, trials = try_out(reference.subject, {"": subject}, self.pictures)
            trial = trials[""]
            checks += tuple(self._alike(reference, own, trial))
        # What fails on an image cannot be timed with it.
        sizes = sizes_of(engine) if all(check.name != RUNS for check in checks) else ()
        image = samples[0].pixels
        times = {size: in_turns({"": engine}, image, batch=size)[""] for size in sizes}
        engine.close()
        return Verified(
            file=weights.name,
            against=reference.name if reference else None,
            trial=trial,
            checks=checks,
            ms=times,
            memory_bytes=footprint(weights, self.bench.spec, running),
        )

    def examine_made(self, weights: Path, running: Running, reference: Reference) -> Verified:
        """Do what `examine` does; that a network cannot be loaded is found, too."""
        try:
            return self.examine(weights, running, reference)
        except ConfigurationError as error:
            return checked(weights.name, Check(name="loads", passed=False, told=error.message))

    def _alike(self, reference: Reference, own: Trial, trial: Trial) -> Iterator[Check]:
        agreement = trial.agreement
        if reference.same:
            error = agreement.max_error / (agreement.largest or 1.0)
            told = f"they differ by {error:.2g} of the largest value at most"
            if not agreement.values:
                told = "no output has the name and the shape of one there: only answers tell"
            yield Check(name="values", passed=error <= _SAME, told=told)
        gone = lost(trial, own.accuracy)
        told = f"{agreement.answers:.1%} are equal"
        if trial.accuracy is not None:
            told += f", accuracy {own.accuracy:.1%} becomes {trial.accuracy:.1%}"
        if agreement.broken:
            told += f", {agreement.broken} images have none"
        # Rounding may turn what means nothing either way.
        matters = self.real or reference.same
        passed = not agreement.broken and (gone <= MOST_LOST or not matters)
        yield Check(name="answers", passed=passed, told=told)


def checked(file: str, *checks: Check) -> Verified:
    """Return what was found of a file that was not run."""
    return Verified(file=file, against=None, trial=None, checks=checks, ms={}, memory_bytes=0)
