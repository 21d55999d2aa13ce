"""Whether a version's networks are right: each for itself, and compared with what it came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from visionmesh.contracts import Frozen
from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.agreement import MOST_LOST
from visionmesh.models.artifacts import file_sha256
from visionmesh.models.completing import COMPLETE_FILE, complete_checks
from visionmesh.models.folder import WEIGHTS_FILE, ModelFolder, load_folder
from visionmesh.models.footprint import footprint
from visionmesh.models.pictures import Picture, Pictures, gather
from visionmesh.models.soundness import Check, engine_checks, sizes_of
from visionmesh.models.spec import Batching, ModelSpec
from visionmesh.models.trial import Subject, Trial, compare, cpu_name, drawn, in_turns, lost
from visionmesh.models.variants import VARIANTS_FILE, Precision, read_variants
from visionmesh.workbench import Workbench

_SAME = 1e-3
"""Largest error between two forms of one network, in parts of the largest output value."""
_DRAWN = 8
"""Images that are made up where none are given."""
_PROBES = 4
"""Images that each network is examined with by itself."""
_QUICK = 2
"""Images, and the largest batch, of `quick`."""


class Verified(Frozen):
    """What was found of one network."""

    file: str
    against: str | None
    """What it was compared with."""
    trial: Trial | None
    """How that went."""
    checks: tuple[Check, ...]
    ms: dict[int, float]
    """Median milliseconds of a batch, by its size, with one thread."""
    memory_bytes: int
    """By which a process grows that has run every batch size."""

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


class Verification(Frozen):
    """The answer of `verify`."""

    model: str
    version: int
    images: int
    real: bool
    """Whether they were given; made-up ones say little about equal answers."""
    cpu: str
    networks: tuple[Verified, ...]
    passed: bool


_OUTDATED = Check(
    name="current",
    passed=False,
    told=f"not what {VARIANTS_FILE} tells of, or made from another network: optimize again",
)


@dataclass(frozen=True, kw_only=True)
class _Reference:
    """What a network is compared with."""

    name: str
    subject: Subject
    same: bool
    """It is another form of the network: outputs of the same name have the same values."""


def verify(
    folder: ModelFolder,
    *,
    version: int | None = None,
    images: Path | None = None,
    against: Path | None = None,
    most: int = 200,
    said: Callable[[str], None] = lambda _: None,
) -> Verification:
    """Examine the network of a version (by default the newest) and what was made of it.

    ``images`` is a folder of up to ``most`` images; without it some are made up. ``against`` is
    what the network came from: an ONNX file that takes the same input, or another model's folder.

    Raises
    ------
    ConfigurationError
        (model_invalid) if the network or what it is compared with cannot be loaded;
        (images_missing).
    Refused
        (unknown_version) if the folder lacks the version.
    """
    number, weights = folder.pick(version)
    bench = Workbench(folder.spec)
    pictures = gather(images, bench, most=most) if images else _made_up(folder.spec)
    examiner = _Examiner(bench=bench, pictures=pictures, real=images is not None, said=said)
    origin = None if against is None else _origin(against, bench)
    networks = [examiner.examine(weights, Precision.FP32, origin)]
    reference = _Reference(
        name=weights.name,
        subject=Subject(bench=bench, engine=bench.open(weights)),
        same=False,
    )
    variants = read_variants(weights.parent)
    stale = variants is not None and variants.of != file_sha256(weights)
    for artifact in variants.artifacts if variants else ():
        file = weights.parent / artifact.file
        if stale or file_sha256(file) != artifact.sha256:
            networks.append(_checked(artifact.file, _OUTDATED))
        else:
            networks.append(_examined(examiner, file, artifact.precision, reference))
    if checks := complete_checks(bench, reference.subject.engine, weights, pictures):
        networks.append(_checked(COMPLETE_FILE, *checks))
    return Verification(
        model=folder.spec.name,
        version=number,
        images=len(pictures),
        real=images is not None,
        cpu=cpu_name(),
        networks=tuple(networks),
        passed=all(network.passed for network in networks),
    )


def quick(spec: ModelSpec, weights: Path) -> None:
    """Run a network on made-up images: what no push should let through shows in a second.

    Raises
    ------
    ConfigurationError
        (verification_failed) if outputs are not finite, no answer can be made of them, a second
        run gives others, or an image's outputs depend on its batch; (model_invalid) if the network
        does not run.
    """
    largest = min(_QUICK, spec.batching.max_size)
    bench = Workbench(spec.model_copy(update={"batching": Batching(max_size=largest)}))
    engine = bench.open(weights)
    samples = [bench.sample(drawn(spec.input, seed)) for seed in range(_QUICK)]
    # What was pushed may have been quantised elsewhere.
    checks = engine_checks(bench, engine, samples, Precision.INT8)
    engine.close()
    failed = [f"{check.name}: {check.told}" for check in checks if not check.passed]
    if failed:
        shown = f"{spec.name}/{weights.parent.name}/{weights.name}"
        raise ConfigurationError(
            Code.VERIFICATION_FAILED,
            f"{shown} is not fit to serve ({'; '.join(failed)}); `visionmesh verify` tells more.",
        )


@dataclass(frozen=True, kw_only=True)
class _Examiner:
    """Looks at networks of one model, all with the same images."""

    bench: Workbench
    pictures: Sequence[Picture] | Pictures
    real: bool
    said: Callable[[str], None]

    def examine(
        self, weights: Path, precision: Precision, reference: _Reference | None
    ) -> Verified:
        self.said(f"examining {weights.name}")
        engine = self.bench.open(weights)
        samples = [self.bench.sample(one.encoded) for one in islice(self.pictures, _PROBES)]
        checks = engine_checks(self.bench, engine, samples, precision)
        trial = None
        if reference is not None:
            subject = Subject(bench=self.bench, engine=engine)
            own, trials = compare(reference.subject, {"": subject}, self.pictures)
            trial = trials[""]
            checks += tuple(self._alike(reference, own, trial))
        image = samples[0].pixels
        times = {size: in_turns({"": engine}, image, batch=size)[""] for size in sizes_of(engine)}
        engine.close()
        return Verified(
            file=weights.name,
            against=reference.name if reference else None,
            trial=trial,
            checks=checks,
            ms=times,
            memory_bytes=footprint(weights, self.bench.spec),
        )

    def _alike(self, reference: _Reference, own: Trial, trial: Trial) -> Iterator[Check]:
        agreement = trial.agreement
        if reference.same:
            error = agreement.max_error / (agreement.largest or 1.0)
            yield Check(
                name="values",
                passed=error <= _SAME,
                told=f"they differ by {error:.2g} of the largest value at most",
            )
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


def _examined(
    examiner: _Examiner, file: Path, precision: Precision, reference: _Reference
) -> Verified:
    try:
        return examiner.examine(file, precision, reference)
    except ConfigurationError as error:
        return _checked(file.name, Check(name="loads", passed=False, told=error.message))


def _origin(against: Path, bench: Workbench) -> _Reference:
    if not against.is_dir():
        subject = Subject(bench=bench, engine=bench.open(against))
        return _Reference(name=against.name, subject=subject, same=True)
    folder = load_folder(against)
    number, weights = folder.pick(None)
    other = Workbench(folder.spec)
    subject = Subject(bench=other, engine=other.open(weights))
    return _Reference(
        name=f"{folder.spec.name}/{number}/{WEIGHTS_FILE}", subject=subject, same=True
    )


def _made_up(spec: ModelSpec) -> list[Picture]:
    return [Picture(drawn(spec.input, seed), None) for seed in range(_DRAWN)]


def _checked(file: str, *checks: Check) -> Verified:
    return Verified(file=file, against=None, trial=None, checks=checks, ms={}, memory_bytes=0)
