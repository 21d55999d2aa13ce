"""Whether a complete file says what the mesh says of the same images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

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
_BRIGHTNESSES = 1
"""Largest difference of resized pixels: OpenCV interpolates with whole numbers."""
_TOGETHER = 3
"""Images in a batch, where any number may be."""


class _CompleteFile:
    """A file that `complete` wrote, run by ONNX Runtime alone.

    Raises ONNX Runtime's own errors (`ort_errors`) if it cannot be loaded or run.
    """

    def __init__(self, file: Path) -> None:
        self._session = _session(file)
        self.told: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        self.parts = frozenset(self.told.get(parts.PARTS_KEY, "").split(","))
        self._pixels = self.told.get(parts.PIXELS_KEY)
        if self._pixels is not None:
            self._session = _session(_showing(file, self._pixels))
        self._input = self._session.get_inputs()[0]

    @property
    def batch(self) -> int | None:
        """The only batch size that it takes; `None`: any."""
        size = self._input.shape[0]
        return size if isinstance(size, int) else None

    def run(self, images: NDArray[Any]) -> tuple[Outputs, NDArray[np.uint8] | None]:
        """Return the outputs by name, and what it resized, (N, H, W, C) of the input's size."""
        names = [output.name for output in self._session.get_outputs()]
        answers = self._session.run(names, {self._input.name: images})
        given = dict(zip(names, answers, strict=True))
        if self._pixels is None:
            return given, None
        return given, given.pop(self._pixels).transpose(0, 2, 3, 1).astype(np.uint8)


def complete_checks(
    bench: Workbench, engine: Engine, weights: Path, pictures: Iterable[Picture]
) -> tuple[Check, ...]:
    """Compare `COMPLETE_FILE` beside ``weights`` with ``engine``, which runs ``weights``.

    Boxes must have the same class, scores within 1e-4 and edges within half a pixel of the image;
    one within 1e-4 of the least score may be missing. A file that resizes must make pixels that
    differ by one brightness at most, and what it says of them is compared with what ``engine`` says
    of them. Returns nothing if there is no such file.
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
        # Images that are resized may each have another size.
        together = whole.batch or (1 if Part.RESIZE in whole.parts else _TOGETHER)
        found = [one for group in _groups(pictures, together) for one in comparison.of(group)]
    except ort_errors() as error:
        return (Check(name="runs", passed=False, told=str(error)),)
    return tuple(_checks(found))


class _Found(NamedTuple):
    """What came of one image."""

    same: bool
    moved: int | None
    """Largest difference of a resized pixel, in brightnesses of 255."""


def _checks(found: list[_Found]) -> Iterator[Check]:
    moved = [one.moved for one in found if one.moved is not None]
    if moved:
        told = f"pixels differ by {max(moved)} of 255 brightnesses at most"
        yield Check(name="pixels", passed=max(moved) <= _BRIGHTNESSES, told=told)
    alike = [one.same for one in found]
    told = f"{sum(alike)} of {len(alike)} images lead to the same"
    yield Check(name="answers", passed=all(alike), told=told)


@dataclass(frozen=True, kw_only=True)
class _Comparison:
    """Looks at images through a complete file and through the parts of the mesh."""

    bench: Workbench
    engine: Engine
    whole: _CompleteFile

    def of(self, encoded: list[bytes]) -> Iterator[_Found]:
        """Say of each image what came of it."""
        if Part.RESIZE in self.whole.parts:
            for each in encoded:
                yield self._resized(self.bench.original(each))
            return
        samples = [self.bench.sample(each) for each in encoded]
        missing = (self.whole.batch or 0) - len(samples)
        given, _ = self.whole.run(self._input([*samples, *samples[:1] * missing]))
        for number, sample in enumerate(samples):
            yield _Found(self._same(given, number, sample), None)

    def _resized(self, original: NDArray[np.uint8]) -> _Found:
        given, pixels = self.whole.run(np.stack([original] * (self.whole.batch or 1)))
        sample = self.bench.fit(original)
        if pixels is None:
            return _Found(self._same(given, 0, sample), None)
        moved = np.abs(pixels[0].astype(int) - sample.pixels).max()
        return _Found(self._same(given, 0, sample._replace(pixels=pixels[0])), int(moved))

    def _input(self, samples: list[Sample]) -> NDArray[Any]:
        if Part.PREPROCESS in self.whole.parts:
            return np.stack([sample.pixels for sample in samples])
        return self.bench.tensor(samples)

    def _same(self, given: Outputs, number: int, sample: Sample) -> bool:
        try:
            wanted = self.engine.run([sample.pixels])
            if Part.POSTPROCESS not in self.whole.parts:
                return all(_near(wanted[name][0], given[name][number]) for name in wanted)
            answer = self.bench.read(wanted, 0, sample, Params())
        except Reject:
            return False
        spec = self.bench.spec
        if parts.BOXES not in given:
            return _same_scores(answer, given[parts.SCORES][number], spec)
        found = _found(given, number)
        if Part.RESIZE not in self.whole.parts:
            found = _placed(found, sample)
        return _same_boxes(_columns(answer.detections, spec), _cut(found, sample), spec)


def _session(file: Path | bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def _showing(file: Path, value: str) -> bytes:
    """Return the network with ``value`` among its outputs."""
    model = onnx.load(file)
    model.graph.output.append(helper.make_tensor_value_info(value, TensorProto.FLOAT, None))
    serialised: bytes = model.SerializeToString()
    return serialised


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


def _found(given: Outputs, number: int) -> _Boxes:
    own = given[parts.BATCH] == number
    boxes = given[parts.BOXES][own].astype(np.float64)
    return _Boxes(boxes, given[parts.SCORES][own], given[parts.CLASSES][own])


def _placed(found: _Boxes, sample: Sample) -> _Boxes:
    """Return boxes in pixels of the input where they lie in the original."""
    place = sample.facts.placement
    boxes = found.boxes - (place.offset_x, place.offset_y) * 2
    return found._replace(boxes=boxes / ((place.scale_x, place.scale_y) * 2))


def _cut(found: _Boxes, sample: Sample) -> _Boxes:
    """Return boxes as the mesh tells them: to the image's edges, without what lies beside it."""
    sides = (sample.facts.width, sample.facts.height) * 2
    boxes = np.clip(found.boxes, 0, sides).round(2)
    inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return _Boxes(boxes[inside], found.scores[inside], found.classes[inside])


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
