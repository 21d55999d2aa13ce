"""The fastest way to run a version on this machine, of all whose answers are right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from services.infer.engines import Engine, Image
from visionmesh.contracts import Frozen
from visionmesh.cpu import cpu_features
from visionmesh.errors import Code, ConfigurationError, Reject
from visionmesh.models.agreement import MOST_LOST, Seen, accuracy, first_class
from visionmesh.models.artifacts import file_sha256
from visionmesh.models.candidates import between, open_way, ways
from visionmesh.models.folder import ModelFolder
from visionmesh.models.pictures import Picture
from visionmesh.models.race import Speed, race
from visionmesh.models.rightness import LEAST_AGREEMENT, agreement
from visionmesh.models.soundness import engine_checks, flaws
from visionmesh.models.trial import Subject, require_answers
from visionmesh.models.variants import (
    Choice,
    Measured,
    Variants,
    read_variants,
    write_variants,
)
from visionmesh.workbench import Sample, Workbench, cores

WORTH = 1.05
"""By how much faster than the plain way another one must be to be preferred to it."""
_IMAGES = 200
"""At most: of so many answers, two may differ."""
_PROBES = 4
"""Images with which each engine is looked at by itself."""
_NEAR = 0.9
"""What does at least this share of the best runs again beside other numbers of threads."""
_RIGHT = "right"

Tell = Callable[[str], None]


class Row(Frozen):
    """What came of one way."""

    way: Measured
    agreement: float | None
    """Of its answers with those of the plain way, from 0 to 1; `None` if it does not run."""
    accuracy: float | None = None
    """Share of images whose first class is the true one, where the truth is known."""
    images_per_s: float | None = None
    """With full batches, on all copies at once; `None` if the answers are wrong."""
    latency_ms: float | None = None
    """Of one image, alone."""
    verdict: str
    """`fastest`, `right`, or why it cannot be taken."""


@dataclass(frozen=True)
class _Track:
    """Where ways take turns; engines stay loaded from one race to the next."""

    bench: Workbench
    network: Path
    images: Sequence[Image]
    tell: Tell
    opened: ExitStack
    engines: dict[Measured, tuple[Engine, ...]] = field(default_factory=dict)

    def measure(
        self, ways: Sequence[Measured], *, seconds: float, keep: Measured
    ) -> dict[Measured, Speed]:
        for way in ways:
            if way not in self.engines:
                self.tell(f"loading {way}")
                self.engines[way] = open_way(self.bench, self.network, way)
                for engine in self.engines[way]:
                    self.opened.callback(engine.close)
        self.tell(f"measuring {len(ways)} ways in turns")
        return race(
            {way: self.engines[way] for way in ways},
            self.images,
            batch=self.bench.spec.batching.max_size,
            seconds=seconds,
            keep=keep,
        )


class Tuning(Frozen):
    """The result of one run."""

    choice: Choice
    rows: tuple[Row, ...]
    """What was chosen, then the fastest first; what was not measured comes last."""
    images: int
    """With which the answers were compared."""


def tune(
    folder: ModelFolder,
    version: int,
    images: Iterable[Picture],
    *,
    seconds: float = 60.0,
    tell: Tell = lambda _: None,
) -> Tuning:
    """Measure engines, precisions, threads and copies in turns; return the fastest that is right.

    What is right passes the checks of `verify`, and loses at most 1 % of the accuracy, or, where no
    image tells its truth, of the answers. Images that cannot be decoded are left out, and of many
    only the first 200 are used. ``seconds`` are for the speed, after the answers. ``tell`` hears
    what is being done.

    Each engine and precision is tried with one thread on every core and with all cores on one
    image; only the fastest then also with what lies between, where the cores can be shared out so.

    Raises
    ------
    ConfigurationError
        (model_invalid) if ONNX Runtime cannot run the network, or no answer can be made of what it
        says; (verification_failed) if the network itself is not repeatable, or an image's outputs
        depend on its batch; (images_missing) without images.
    """
    bench, network = Workbench(folder.spec), folder.versions[version]
    samples, truths = _samples(bench, images)
    rows = list(_judged(bench, network, samples, truths, tell))
    plain = rows[0].way
    right = [row.way for row in rows if row.verdict == _RIGHT]
    more = between(plain)
    share = seconds / 2 if more else seconds
    with ExitStack() as opened:
        track = _Track(bench, network, [sample.pixels for sample in samples], tell, opened)
        speeds = track.measure(right, seconds=share, keep=plain)
        rows = _timed(rows, speeds)
        if more:
            best = max(rows, key=lambda row: row.images_per_s or 0)
            rows += [best.model_copy(update={"way": way}) for way in between(best.way)]
            again = [plain, *_near(speeds), *between(best.way)]
            speeds = track.measure(list(dict.fromkeys(again)), seconds=share, keep=plain)
            rows = _timed(rows, speeds)
    return _result(rows, speeds, len(samples))


def keep(network: Path, choice: Choice) -> Variants:
    """Write ``choice`` into the ``variants.json`` beside ``network``; return what it says now."""
    variants = _variants(network).model_copy(update={"choice": choice})
    write_variants(network.parent, variants)
    return variants


def _samples(bench: Workbench, images: Iterable[Picture]) -> tuple[list[Sample], list[str | None]]:
    samples, truths = [], []
    for encoded, truth in islice(images, _IMAGES):
        try:
            samples.append(bench.sample(encoded))
        except Reject:
            continue
        truths.append(truth)
    if not samples:
        raise ConfigurationError(
            Code.IMAGES_MISSING,
            "There is no image that can be decoded; tuning needs some as the model will see them.",
        )
    return samples, truths


def _judged(
    bench: Workbench,
    network: Path,
    samples: Sequence[Sample],
    truths: Sequence[str | None],
    tell: Tell,
) -> Iterator[Row]:
    """Yield each way, and whether it answers as the plain one does."""
    reference: list[Seen] = []
    for many, one in ways(_variants(network).artifacts):
        tell(f"comparing the answers of {many.engine} {many.precision}")
        try:
            readings, flawed = _read(bench, network, one, samples)
        except ConfigurationError as error:
            if not reference:
                raise
            row = Row(way=many, agreement=None, verdict=error.message)
        else:
            if not reference:
                reference = readings
                _require_right(network, reference, flawed)
            exact = _accuracy(readings, truths)
            agreed = agreement(samples, reference, readings)
            verdict = flawed or _verdict(agreed, exact, _accuracy(reference, truths))
            row = Row(way=many, agreement=agreed, accuracy=exact, verdict=verdict)
        yield from (row.model_copy(update={"way": way}) for way in dict.fromkeys((many, one)))


def _accuracy(seen: Sequence[Seen], truths: Sequence[str | None]) -> float | None:
    return accuracy([first_class(one.answer) for one in seen], truths)


def _verdict(agreed: float, exact: float | None, wanted: float | None) -> str:
    if exact is not None and wanted is not None:
        right = exact >= wanted - MOST_LOST
        return _RIGHT if right else f"only {exact:.1%} of images are recognised, of {wanted:.1%}"
    return _RIGHT if agreed >= LEAST_AGREEMENT else f"only {agreed:.1%} of answers agree"


def _require_right(network: Path, reference: Sequence[Seen], flawed: str) -> None:
    """Raise `ConfigurationError` if the plain way is nothing to compare others with."""
    unanswered = sum(seen.answer is None for seen in reference)
    require_answers(network, unanswered=unanswered, images=len(reference))
    if flawed:
        raise ConfigurationError(
            Code.VERIFICATION_FAILED,
            f"{network.name} itself is not right ({flawed}); see what `visionmesh verify` finds.",
        )


def _read(
    bench: Workbench, network: Path, way: Measured, samples: Sequence[Sample]
) -> tuple[list[Seen], str]:
    """Return what comes of each image, and what `verify` would find against the engine."""
    (engine, *more) = open_way(bench, network, way)
    try:
        subject = Subject(bench=bench, engine=engine)
        # Outputs of many images would fill the memory.
        seen = [subject.look(sample)._replace(outputs={}) for sample in samples]
        return seen, flaws(engine_checks(bench, engine, samples[:_PROBES], way.precision))
    finally:
        for one in (engine, *more):
            one.close()


def _near(speeds: Mapping[Measured, Speed]) -> list[Measured]:
    best = max(speed.images_per_s for speed in speeds.values())
    return [way for way, speed in speeds.items() if speed.images_per_s >= _NEAR * best]


def _timed(rows: Iterable[Row], speeds: Mapping[Measured, Speed]) -> list[Row]:
    """Return the rows with the speeds of those that were measured."""
    return [
        row.model_copy(update=speeds[row.way]._asdict()) if row.way in speeds else row
        for row in rows
    ]


def _result(rows: Sequence[Row], speeds: Mapping[Measured, Speed], images: int) -> Tuning:
    """Return the best of the last race: ``speeds`` of different races are not compared."""
    plain = rows[0].way
    best = max(speeds, key=lambda way: speeds[way].images_per_s)
    if speeds[best].images_per_s < WORTH * speeds[plain].images_per_s:
        best = plain
    told = [
        row.model_copy(update={"verdict": "fastest"}) if row.way == best else row for row in rows
    ]
    told.sort(key=lambda row: (row.way != best, -(row.images_per_s or 0)))
    choice = Choice(
        **best.model_dump(),
        cpu=cpu_features(),
        cores=cores(),
        images_per_s=speeds[best].images_per_s,
        baseline_per_s=speeds[plain].images_per_s,
    )
    return Tuning(choice=choice, rows=tuple(told), images=images)


def _variants(network: Path) -> Variants:
    """Return what was made of the network; nothing if it was made of another one."""
    sha256 = file_sha256(network)
    known = read_variants(network.parent)
    return known if known and known.of == sha256 else Variants(of=sha256)
