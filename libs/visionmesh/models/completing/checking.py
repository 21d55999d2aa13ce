"""Whether a complete file says what the mesh says of the same images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from services.infer.engines import Engine, Outputs
from visionmesh.contracts import Answer, Detection, Params
from visionmesh.errors import Reject
from visionmesh.models.artifacts import file_sha256
from visionmesh.models.check import ort_errors
from visionmesh.models.completing import parts
from visionmesh.models.completing.complete import COMPLETE_FILE
from visionmesh.models.completing.parts import Part, spec_digest
from visionmesh.models.pictures import Picture
from visionmesh.models.soundness import Check
from visionmesh.models.spec import ModelSpec
from visionmesh.workbench import Sample, Workbench

_VALUE, _PIXELS = 1e-4, 0.5
"""Largest differences: of scores, or of other values in parts of the largest, and of edges."""
_TOGETHER = 3
"""Images in a batch, where any number may be."""


class _CompleteFile:
    """A file that `complete` wrote, run by ONNX Runtime alone.

    Raises ONNX Runtime's own errors (`ort_errors`) if it cannot be loaded or run.
    """

    def __init__(self, file: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(file, options, providers=providers)
        self.told: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        self.parts = frozenset(self.told.get(parts.PARTS_KEY, "").split(","))
        self._input = self._session.get_inputs()[0]

    @property
    def batch(self) -> int | None:
        """The only batch size that it takes; `None`: any."""
        size = self._input.shape[0]
        return size if isinstance(size, int) else None

    def run(self, images: NDArray[Any]) -> Outputs:
        """Return the outputs by name."""
        names = [output.name for output in self._session.get_outputs()]
        answers = self._session.run(names, {self._input.name: images})
        return dict(zip(names, answers, strict=True))


def complete_checks(
    bench: Workbench, engine: Engine, weights: Path, pictures: Iterable[Picture]
) -> tuple[Check, ...]:
    """Compare `COMPLETE_FILE` beside ``weights`` with ``engine``, which runs ``weights``.

    _Boxes must have the same class, scores within 1e-4 and edges within half a pixel of the image;
    one within 1e-4 of the least score may be missing. Returns nothing if there is no such file.
    """
    file = weights.with_name(COMPLETE_FILE)
    if not file.is_file():
        return ()
    try:
        whole = _CompleteFile(file)
        expected = {
            parts.NETWORK_KEY: file_sha256(weights),
            parts.SPEC_KEY: spec_digest(bench.spec),
        }
        if not expected.items() <= whole.told.items():
            told = "made of another network or model.yaml: run `visionmesh complete` again"
            return (Check(name="current", passed=False, told=told),)
        comparison = _Comparison(bench=bench, engine=engine, whole=whole)
        alike = [
            same
            for group in _groups(pictures, whole.batch or _TOGETHER)
            for same in comparison.of(group)
        ]
    except ort_errors() as error:
        return (Check(name="runs", passed=False, told=str(error)),)
    told = f"{sum(alike)} of {len(alike)} images lead to the same"
    return (Check(name="answers", passed=all(alike), told=told),)


@dataclass(frozen=True, kw_only=True)
class _Comparison:
    """Looks at images through a complete file and through the parts of the mesh."""

    bench: Workbench
    engine: Engine
    whole: _CompleteFile

    def of(self, encoded: list[bytes]) -> Iterator[bool]:
        """Say of each image whether both ways lead to the same."""
        samples = [self.bench.sample(each) for each in encoded]
        missing = (self.whole.batch or 0) - len(samples)
        given = self.whole.run(self._input([*samples, *samples[:1] * missing]))
        for number, sample in enumerate(samples):
            try:
                yield self._same(given, number, sample)
            except Reject:
                yield False

    def _input(self, samples: list[Sample]) -> NDArray[Any]:
        if Part.PREPROCESS in self.whole.parts:
            return np.stack([sample.pixels for sample in samples])
        return self.bench.tensor(samples)

    def _same(self, given: Outputs, number: int, sample: Sample) -> bool:
        wanted = self.engine.run([sample.pixels])
        if Part.POSTPROCESS not in self.whole.parts:
            return all(_near(wanted[name][0], given[name][number]) for name in wanted)
        answer = self.bench.read(wanted, 0, sample, Params())
        if parts.BOXES not in given:
            return _same_scores(answer, given[parts.SCORES][number], self.bench.spec)
        found = _placed(given, number, sample, self.bench.spec)
        return _same_boxes(_columns(answer.detections, self.bench.spec), found, self.bench.spec)


class _Boxes(NamedTuple):
    boxes: NDArray[Any]
    """(K, 4) in pixels of the original."""
    scores: NDArray[Any]
    classes: NDArray[Any]


def _groups(pictures: Iterable[Picture], size: int) -> Iterator[list[bytes]]:
    left = iter(pictures)
    while group := [one.encoded for one in islice(left, size)]:
        yield group


def _near(wanted: NDArray[Any], given: NDArray[Any]) -> bool:
    if wanted.shape != given.shape:
        return False
    slack = _VALUE * (np.abs(wanted.astype(np.float64)).max(initial=0) or 1.0)
    return bool(np.allclose(given, wanted, rtol=0, atol=slack))


def _same_scores(answer: Answer, scores: NDArray[Any], spec: ModelSpec) -> bool:
    told = [one.score for one in answer.classes or ()]
    places = [_class(one.label, spec) for one in answer.classes or ()]
    return bool(np.allclose(scores[places], told, rtol=0, atol=_VALUE))


def _class(label: str, spec: ModelSpec) -> int:
    return spec.labels.index(label) if spec.labels else int(label)


def _columns(detections: tuple[Detection, ...] | None, spec: ModelSpec) -> _Boxes:
    found = detections or ()
    return _Boxes(
        np.array([one.box for one in found]).reshape(-1, 4),
        np.array([one.score for one in found]),
        np.array([_class(one.label, spec) for one in found], np.int64),
    )


def _placed(given: Outputs, number: int, sample: Sample, spec: ModelSpec) -> _Boxes:
    """Return the boxes of one image where they lie in the original, without what lies beside it."""
    own = given[parts.BATCH] == number
    place = sample.facts.placement
    boxes = given[parts.BOXES][own].astype(np.float64)
    boxes -= (place.offset_x, place.offset_y) * 2
    boxes /= (place.scale_x, place.scale_y) * 2
    boxes = np.clip(boxes, 0, (sample.facts.width, sample.facts.height) * 2).round(2)
    inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return _Boxes(
        boxes[inside], given[parts.SCORES][own][inside], given[parts.CLASSES][own][inside]
    )


def _same_boxes(wanted: _Boxes, given: _Boxes, spec: ModelSpec) -> bool:
    near = np.abs(wanted.boxes[:, None] - given.boxes[None]).max(axis=2, initial=0) <= _PIXELS
    near &= np.abs(wanted.scores[:, None] - given.scores[None]) <= _VALUE
    near &= wanted.classes[:, None] == given.classes[None]
    alone = ~near.any(axis=1), ~near.any(axis=0)
    return not any(
        (lonely & ~_borderline(boxes, spec)).any()
        for lonely, boxes in zip(alone, (wanted, given), strict=True)
    )


def _borderline(found: _Boxes, spec: ModelSpec) -> NDArray[np.bool_]:
    least = np.full(len(found.scores), spec.output.confidence)
    for label, confidence in spec.output.class_confidence.items():
        least[found.classes == _class(label, spec)] = confidence
    near: NDArray[np.bool_] = np.abs(found.scores - least) <= _VALUE
    return near
