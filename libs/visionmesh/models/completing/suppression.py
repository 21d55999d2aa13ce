"""From candidates to boxes that do not cover each other, in ONNX operators."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from visionmesh.models.completing.exits import Candidates
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

    As the detectors of the mesh do, a box has its best class only, and the lower of equal ones.
    """
    best, scores = _best_class(wiring, candidates)
    by_class = spec.output.nms == "per_class" and count > 1
    sure = _sure(wiring, best, scores, spec, count)
    rivals = sure
    if by_class:
        numbers = wiring.whole(np.arange(count).reshape(1, count, 1))
        rivals = wiring.add("Where", wiring.add("Equal", best, numbers), sure, wiring.numbers(0))
    most = spec.output.max_detections
    # No intersection over union is above 1.
    iou = 1.0 if spec.output.nms == "none" else spec.output.iou
    limits = wiring.whole([most]), wiring.numbers([iou]), wiring.numbers([0])
    chosen = wiring.add("NonMaxSuppression", candidates.boxes, rivals, *limits)
    places = wiring.add("Gather", chosen, wiring.whole([0, 2]), axis=1)
    batch = wiring.add("Gather", chosen, wiring.whole(0), axis=1)
    flat = wiring.whole([1])
    found = Found(
        boxes=wiring.add("GatherND", candidates.boxes, places),
        scores=wiring.add("GatherND", wiring.add("Squeeze", scores, flat), places),
        classes=wiring.add("GatherND", wiring.add("Squeeze", best, flat), places),
        batch=batch,
    )
    order = _order(wiring, found)
    if by_class:
        order = _first(wiring, order, batch, images=scores, most=most)
    return Found(*(wiring.add("Gather", values, order, axis=0) for values in found))


def _best_class(wiring: Wiring, candidates: Candidates) -> tuple[str, str]:
    """Return (B, 1, A) classes and scores; no more than 1, which rounding might pass."""
    best = wiring.add("ArgMax", candidates.classes, axis=1, keepdims=1)
    scores = wiring.add("GatherElements", candidates.classes, best, axis=1)
    if candidates.objectness:
        scores = wiring.add("Mul", scores, candidates.objectness)
    return best, wiring.add("Min", scores, wiring.numbers(1))


def _sure(wiring: Wiring, best: str, scores: str, spec: ModelSpec, count: int) -> str:
    """Return (B, 1, A) scores, 0 where they are too low: NonMaxSuppression drops those of 0."""
    least = wiring.add("Gather", wiring.numbers(_least(spec, count)), best, axis=0)
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
