"""Calibrate, make, judge, promote: the way of a network to a smaller one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx

from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.artifacts import file_sha256
from visionmesh.models.folder import ModelFolder
from visionmesh.models.graphs import fixed_batch
from visionmesh.models.optimizing import fp16
from visionmesh.models.optimizing.calibration import (
    Method,
    calibrate,
    extremes,
    inputs,
)
from visionmesh.models.optimizing.int8 import FILES, OPERATORS, Quantizer
from visionmesh.models.optimizing.network import prepare
from visionmesh.models.optimizing.report import Made, Original, Report
from visionmesh.models.optimizing.search import Search
from visionmesh.models.pictures import Pictures, gather
from visionmesh.models.push import selected
from visionmesh.models.running import running_here
from visionmesh.models.spec import Batching, ModelSpec
from visionmesh.models.trial import (
    Subject,
    Trial,
    cpu_name,
    in_turns,
    lost,
    require_answers,
    try_out,
)
from visionmesh.models.variants import (
    Artifact,
    Precision,
    Variants,
    read_variants,
    write_variants,
)
from visionmesh.workbench import Workbench


@dataclass(frozen=True, kw_only=True)
class Draft:
    """An artefact that is not judged yet."""

    file: Path
    precision: Precision
    scheme: Literal["u8s8", "s8s8", "fp16"]
    in_float: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """One network, the images that it is optimised with, and a folder to work in."""

    bench: Workbench
    weights: Path
    calibration: Pictures
    held_out: Pictures
    scratch: Path
    said: Callable[[str], None]

    def drafts(self, precision: Precision, method: Method) -> tuple[Draft, ...]:
        """Return the artefacts of ``precision``, in files of the folder to work in."""
        network = prepare(self.weights, self.scratch / "prepared.onnx")
        batch = fixed_batch(onnx.load(network, load_external_data=False)) or 1
        batches = inputs(self.bench, self.calibration, batch)
        self.said(f"measuring values on {len(self.calibration)} images")
        if precision is Precision.FP16:
            in_float = fp16.overflowing(network, extremes(network, batches))
            file = fp16.write(network, self.scratch / fp16.FILE, in_float)
            return (Draft(file=file, precision=precision, scheme="fp16", in_float=in_float),)
        quantizer = Quantizer(
            network=network, ranges=calibrate(network, batches, OPERATORS, method)
        )
        search = Search(
            quantizer=quantizer,
            bench=self.bench,
            weights=self.weights,
            pictures=self.calibration,
            scratch=self.scratch,
            said=self.said,
        )
        drafts = []
        for scheme, name in FILES.items():
            kept = search.kept_in_float(scheme)
            layers = [layer for layer in quantizer.layers if layer not in kept]
            file = quantizer.write(self.scratch / name, scheme, layers)
            in_float = tuple(name for layer in kept for name in layer)
            drafts.append(Draft(file=file, precision=precision, scheme=scheme, in_float=in_float))
        return tuple(drafts)

    def judge(self, drafts: Sequence[Draft]) -> tuple[Original, tuple[Made, ...]]:
        """Compare ``drafts`` with the original on the held-out images, and measure their speed."""
        original, *others = (
            Subject(bench=self.bench, engine=self.bench.open(file))
            for file in (self.weights, *(draft.file for draft in drafts))
        )
        subjects = {draft.file.name: other for draft, other in zip(drafts, others, strict=True)}
        self.said(f"comparing answers on {len(self.held_out)} other images")
        own, trials = try_out(original, subjects, self.held_out)
        seen = own.agreement
        require_answers(self.weights, unanswered=seen.unanswered, images=seen.images)
        image = self.bench.sample(next(iter(self.held_out)).encoded).pixels
        engines = {name: subject.engine for name, subject in subjects.items()}
        times = in_turns({self.weights.name: original.engine} | engines, image)
        begun = Original(
            file=self.weights.name,
            size_bytes=self.weights.stat().st_size,
            accuracy=own.accuracy,
            ms=times[self.weights.name],
        )
        return begun, tuple(
            _made(draft, begun, trials[draft.file.name], times[draft.file.name]) for draft in drafts
        )


def optimize(
    folder: ModelFolder,
    *,
    precision: Precision,
    images: Path,
    version: int | None = None,
    method: Method = Method.PERCENTILE,
    most: int = 600,
    force: bool = False,
    said: Callable[[str], None] = lambda _: None,
) -> Report:
    """Make a version (by default the newest) smaller, and promote what is right.

    A third of up to ``most`` images below ``images`` calibrates, the others judge. An artefact
    appears in the version's folder and in its ``variants.json`` only if it is right, or ``force``
    is given; what is not right is noted as such, and workers leave it. ``said`` is told what is
    being done.

    Raises
    ------
    ConfigurationError
        (model_invalid) if the network cannot be optimised; (images_missing).
    Refused
        (unknown_version) if the folder lacks the version.
    """
    _require_smaller(precision)
    number, weights = folder.pick(version)
    bench = Workbench(_one_by_one(folder.spec))
    pictures = gather(images, bench, most=most)
    calibration, held_out = pictures.split()
    with tempfile.TemporaryDirectory(prefix="visionmesh-optimize-") as scratch:
        workshop = Workshop(
            bench=bench,
            weights=weights,
            calibration=calibration,
            held_out=held_out,
            scratch=Path(scratch),
            said=said,
        )
        drafts = workshop.drafts(precision, method)
        original, made = workshop.judge(drafts)
        promoted = tuple(one for one in made if force or one.is_right)
        if promoted:
            _promote(weights, promoted, workshop.scratch)
    here = running_here(folder.spec, selected(folder, number)[number])
    return Report(
        model=folder.spec.name,
        version=number,
        calibration=len(calibration),
        held_out=len(held_out),
        skipped=pictures.skipped,
        cpu=cpu_name(),
        original=original,
        made=made,
        promoted=tuple(one.file for one in promoted),
        runs=f"{here.running} ({here.why})",
    )


def _require_smaller(precision: Precision) -> None:
    if precision not in (Precision.FP16, Precision.INT8):
        raise ConfigurationError(
            Code.SETTINGS_INVALID,
            f"{precision} needs no file of its own; choose fp16 or int8.",
        )


def _promote(weights: Path, made: Sequence[Made], scratch: Path) -> None:
    """Put what lies in ``scratch`` beside ``weights`` and into ``variants.json``.

    What is known of the fastest engine is forgotten if it was about a file that changes.
    """
    version, of = weights.parent, file_sha256(weights)
    try:
        old = read_variants(version)
    except ConfigurationError:  # what nobody can read is replaced
        old = None
    if old is None or old.of != of:
        old = Variants(of=of)
    new = {one.file: _artifact(one, scratch / one.file) for one in made}
    for name in new:
        shutil.copyfile(scratch / name, version / name)
    kept = tuple(one for one in old.artifacts if one.file not in new)
    unchanged = {one.file for one in old.artifacts if new.get(one.file, one).sha256 == one.sha256}
    choice = old.choice
    if choice is not None and choice.file not in {weights.name, *unchanged}:
        choice = None
    write_variants(version, Variants(of=of, artifacts=(*kept, *new.values()), choice=choice))


def _artifact(made: Made, file: Path) -> Artifact:
    return Artifact(
        file=made.file,
        precision=made.precision,
        scheme=made.scheme,
        sha256=file_sha256(file),
        size_bytes=made.size_bytes,
        faster=made.faster,
        right=made.is_right,
    )


def _made(draft: Draft, original: Original, trial: Trial, ms: float) -> Made:
    size = draft.file.stat().st_size
    return Made(
        file=draft.file.name,
        precision=draft.precision,
        scheme=draft.scheme,
        size_bytes=size,
        smaller=original.size_bytes / size,
        trial=trial,
        lost=lost(trial, original.accuracy),
        ms=ms,
        faster=original.ms / ms,
        in_float=draft.in_float,
    )


def _one_by_one(spec: ModelSpec) -> ModelSpec:
    """Return ``spec`` for images that come one at a time: no larger batch needs to be warm."""
    return spec.model_copy(update={"batching": Batching(max_size=1)})
