"""From candidates to boxes that do not cover each other, in ONNX operators."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from visionmesh.models.completing.candidates import Candidates
from visionmesh.models.completing.wiring import Wiring
from visionmesh.models.spec import ModelSpec


class Found(NamedTuple):
    """Names of the K boxes of all images: by image, and the best first."""

    boxes: str
    """(K, 4) float32."""
    scores: str
    """(K,) float32."""
    classes: str
    """(K,) int64."""
    batch: str
    """(K,) int64: the image in which they are."""


def write_suppression(wiring: Wiring, candidates: Candidates, spec: ModelSpec, count: int) -> Found:
    """Return what is sure enough and not covered, of ``count`` classes.

    Unless all are candidates, a box has its best class only, and the lower of equal ones.
    """
    nms = "none" if candidates.final else spec.output.nms
    least = wiring.numbers(_least(spec, count))
    boxes, scores, best = _entrants(wiring, candidates, count, together=nms == "agnostic")
    if best is None:
        rivals = _sure(wiring, scores, wiring.add("Unsqueeze", least, wiring.whole([0, 2])))
    else:
        rivals = _sure(wiring, scores, wiring.add("Gather", least, best, axis=0))
        if nms == "per_class":
            numbers = wiring.whole(np.arange(count).reshape(1, count, 1))
            mine = wiring.add("Equal", best, numbers)
            rivals = wiring.add("Where", mine, rivals, wiring.numbers(0))
    most = spec.output.max_detections
    # No intersection over union is above 1.
    iou = 1.0 if nms == "none" else spec.output.iou
    limits = wiring.whole([most]), wiring.numbers([iou]), wiring.numbers([0])
    chosen = wiring.add("NonMaxSuppression", boxes, rivals, *limits)
    found = _found(wiring, chosen, boxes, scores, best)
    order = _order(wiring, found)
    if count > 1 and (best is None or nms == "per_class"):
        order = _first(wiring, order, found.batch, images=scores, most=most)
    return Found(*(wiring.add("Gather", values, order, axis=0) for values in found))


def _entrants(
    wiring: Wiring, candidates: Candidates, count: int, *, together: bool
) -> tuple[str, str, str | None]:
    """Return boxes, scores and classes of what competes: (B, A, 4), (B, 1, A) and (B, 1, A).

    If each class of a box competes on its own, scores are (B, C, A) without classes; or, if all
    compete ``together``, that class of the box is a box of its own.
    """
    boxes = candidates.boxes
    if not candidates.pairs:
        best, scores = _best_class(wiring, candidates)
        return boxes, scores, best
    scores = wiring.add("Min", candidates.classes, wiring.numbers(1))
    if not together:
        return boxes, scores, None
    numbers = wiring.whole(np.arange(count).reshape(1, count, 1))
    classes = wiring.add("Expand", numbers, wiring.add("Shape", scores))
    row = wiring.whole([0, 1, -1])
    return (
        wiring.add("Tile", boxes, wiring.whole([1, count, 1])),
        wiring.add("Reshape", scores, row),
        wiring.add("Reshape", classes, row),
    )


def _found(wiring: Wiring, chosen: str, boxes: str, scores: str, best: str | None) -> Found:
    """Return what is said of ``chosen``, (K, 3): image, row of the scores, and box.

    With ``best``, (B, 1, A) classes, ``scores`` are those of all boxes, in one row.
    """
    places = wiring.add("Gather", chosen, wiring.whole([0, 2]), axis=1)
    if best is None:
        told = wiring.add("GatherND", scores, chosen)
        classes = wiring.add("Gather", chosen, wiring.whole(1), axis=1)
    else:
        told, classes = (
            wiring.add("GatherND", wiring.add("Squeeze", row, wiring.whole([1])), places)
            for row in (scores, best)
        )
    return Found(
        boxes=wiring.add("GatherND", boxes, places),
        scores=told,
        classes=classes,
        batch=wiring.add("Gather", chosen, wiring.whole(0), axis=1),
    )


def _best_class(wiring: Wiring, candidates: Candidates) -> tuple[str, str]:
    """Return (B, 1, A) classes and scores; no more than 1, which rounding might pass."""
    best = wiring.add("ArgMax", candidates.classes, axis=1, keepdims=1)
    scores = wiring.add("GatherElements", candidates.classes, best, axis=1)
    if candidates.objectness:
        scores = wiring.add("Mul", scores, candidates.objectness)
    return best, wiring.add("Min", scores, wiring.numbers(1))


def _sure(wiring: Wiring, scores: str, least: str) -> str:
    """Return the scores, 0 where they are too low: NonMaxSuppression drops those of 0."""
    return wiring.add(
        *("Where", wiring.add("GreaterOrEqual", scores, least), scores, wiring.numbers(0))
    )


def _least(spec: ModelSpec, count: int) -> NDArray[np.float32]:
    names = {name: index for index, name in enumerate(spec.labels or map(str, range(count)))}
    least = np.full(count, spec.output.confidence, np.float32)
    for name, confidence in spec.output.class_confidence.items():
        if name in names:
            least[names[name]] = confidence
    return least


def _order(wiring: Wiring, found: Found) -> str:
    """Return the places of the boxes by image, and the best first.

    Not every runtime's TopK keeps equals in their order: images are told apart by distinct numbers
    that hold the first order, too.
    """
    shape = wiring.add("Shape", found.scores)
    _, by_score = wiring.pair("TopK", found.scores, shape, axis=0)
    count = wiring.add("Squeeze", shape, wiring.whole([0]))
    ranks = wiring.add("Range", wiring.whole(0), count, wiring.whole(1))
    images = wiring.add("Mul", wiring.add("Gather", found.batch, by_score, axis=0), shape)
    keys = wiring.add("Add", images, ranks)
    _, by_image = wiring.pair("TopK", keys, shape, axis=0, largest=0)
    return wiring.add("Gather", by_score, by_image, axis=0)


def _first(wiring: Wiring, order: str, batch: str, *, images: str, most: int) -> str:
    """Return the places of the ``most`` first boxes of each image.

    NonMaxSuppression itself counts by class.
    """
    batch = wiring.add("Gather", batch, order, axis=0)
    own = wiring.add("Unsqueeze", batch, wiring.whole([1]))
    count = wiring.add("Gather", wiring.add("Shape", images), wiring.whole(0), axis=0)
    numbers = wiring.add("Range", wiring.whole(0), count, wiring.whole(1))
    mine = wiring.add("Cast", wiring.add("Equal", own, numbers), to=TensorProto.INT32)
    ranks = wiring.add("CumSum", mine, wiring.whole(0))
    rank = wiring.add(
        "Squeeze", wiring.add("GatherElements", ranks, own, axis=1), wiring.whole([1])
    )
    limit = wiring.add("Cast", wiring.whole(most), to=TensorProto.INT32)
    within = wiring.add("NonZero", wiring.add("LessOrEqual", rank, limit))
    return wiring.add("Gather", order, wiring.add("Squeeze", within, wiring.whole([0])), axis=0)
