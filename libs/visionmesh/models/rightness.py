"""Whether another way to run a network still gives the same answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from visionmesh.contracts import Answer, Detection, Placement
from visionmesh.models.agreement import MOST_LOST, Seen, likeness, same_mask
from visionmesh.workbench import Sample

LEAST_AGREEMENT = 1 - MOST_LOST
"""Of answers, where only those can be compared."""
EDGE_PIXELS = 8.0
"""By how far an edge of the same box may lie elsewhere, in pixels of the network's input: a cell of
the finest grid that detectors usually have."""


def agreement(samples: Sequence[Sample], ours: Sequence[Seen], theirs: Sequence[Seen]) -> float:
    """Return which share of all answers is the same, from 0 to 1.

    Of boxes: the share that has a partner of the same label in the other answer, each edge within
    `EDGE_PIXELS`, and the same mask. Of anything else: see `visionmesh.models.agreement.likeness`.
    """
    equal = compared = 0.0
    for sample, one, other in zip(samples, ours, theirs, strict=True):
        same, of = _compare(sample.facts.placement, one, other)
        equal, compared = equal + same, compared + of
    return equal / compared if compared else 1.0


def accuracy(seen: Sequence[Seen], truths: Sequence[str | None]) -> float | None:
    """Return for which share of images the first class is the true one.

    `None` if a truth is not known, or the answers are no classes.
    """
    if None in truths or not any(_first(one) for one in seen):
        return None
    pairs = zip(seen, truths, strict=True)
    return sum(_first(one) == truth for one, truth in pairs) / len(truths)


def _first(one: Seen) -> str | None:
    classes = one.answer and one.answer.classes
    return classes[0].label if classes else None


def _compare(place: Placement, ours: Seen, theirs: Seen) -> tuple[float, float]:
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
    partners = same & (moved.max(axis=2) <= EDGE_PIXELS)
    return float(
        sum(
            any(same_mask(box, there[number]) for number in np.flatnonzero(row))
            for box, row in zip(here, partners, strict=True)
        )
    )


def _edges(found: Sequence[Detection]) -> NDArray[np.float64]:
    return np.array([one.box for one in found], np.float64)
