"""Whether another way to run a network still gives the same answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.infer.engines import Engine
from visionmesh.contracts import Answer, Detection, Params, Placement
from visionmesh.errors import Reject
from visionmesh.models.agreement import MOST_LOST, SCORE_SLACK, likeness
from visionmesh.workbench import Sample, Workbench

LEAST_AGREEMENT = 1 - MOST_LOST
"""Of answers, where only those can be compared."""
EDGE_PIXELS = 8.0
"""By how far an edge of the same box may lie elsewhere, in pixels of the network's input: a cell of
the finest grid that detectors usually have."""


class Reading(NamedTuple):
    """What was made of one image; `None` if nothing could be."""

    answer: Answer | None
    wider: Answer | None
    """With boxes that score a little less than the model's confidence, too."""


def read_answers(bench: Workbench, engine: Engine, samples: Sequence[Sample]) -> list[Reading]:
    """Return what ``engine`` makes of each image."""
    return [_read(bench, engine, sample) for sample in samples]


def agreement(
    samples: Sequence[Sample], ours: Sequence[Reading], theirs: Sequence[Reading]
) -> float:
    """Return which share of all answers is the same, from 0 to 1.

    Of boxes: the share that has a partner of the same label in the other answer, each edge within
    `EDGE_PIXELS`. Of anything else: see `visionmesh.models.agreement.likeness`.
    """
    equal = compared = 0.0
    for sample, one, other in zip(samples, ours, theirs, strict=True):
        same, of = _compare(sample.facts.placement, one, other)
        equal, compared = equal + same, compared + of
    return equal / compared if compared else 1.0


def accuracy(readings: Sequence[Reading], truths: Sequence[str | None]) -> float | None:
    """Return for which share of images the first class is the true one.

    `None` if a truth is not known, or the answers are no classes.
    """
    if None in truths or not any(_first(reading) for reading in readings):
        return None
    pairs = zip(readings, truths, strict=True)
    return sum(_first(reading) == truth for reading, truth in pairs) / len(truths)


def _read(bench: Workbench, engine: Engine, sample: Sample) -> Reading:
    least = max(0.0, bench.spec.output.confidence - SCORE_SLACK)
    try:
        outputs = engine.run([sample.pixels])
        answer = bench.read(outputs, 0, sample, Params())
        if answer.detections is None:
            return Reading(answer, answer)
        return Reading(answer, bench.read(outputs, 0, sample, Params(confidence=least)))
    except Reject:
        return Reading(None, None)


def _first(reading: Reading) -> str | None:
    classes = reading.answer and reading.answer.classes
    return classes[0].label if classes else None


def _compare(place: Placement, ours: Reading, theirs: Reading) -> tuple[float, float]:
    if ours.answer is None or theirs.answer is None:
        return float(ours.answer is theirs.answer), 1.0
    if ours.answer.detections is None:
        return likeness(ours.answer, theirs.answer)
    equal = _partnered(place, ours.answer, theirs.wider) + _partnered(
        place, theirs.answer, ours.wider
    )
    return equal, len(ours.answer.detections) + len(theirs.answer.detections or ())


def _partnered(place: Placement, ours: Answer, theirs: Answer | None) -> float:
    """Return how many boxes of ``ours`` are also in ``theirs``."""
    here, there = ours.detections or (), (theirs and theirs.detections) or ()
    if not here or not there:
        return 0.0
    same = np.equal.outer([one.label for one in here], [one.label for one in there])
    moved = np.abs(_edges(here)[:, None] - _edges(there)[None])
    moved *= (place.scale_x, place.scale_y, place.scale_x, place.scale_y)
    return float((same & (moved.max(axis=2) <= EDGE_PIXELS)).any(axis=1).sum())


def _edges(found: Sequence[Detection]) -> NDArray[np.float64]:
    return np.array([one.box for one in found], np.float64)
