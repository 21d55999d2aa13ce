"""Says how good detections are: the average precision of each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.floating]


@dataclass(frozen=True)
class Marked:
    """What is on an image."""

    boxes: Boxes
    """(M, 4) ``x1, y1, x2, y2``."""
    labels: NDArray[np.intp]
    """(M,)."""


@dataclass(frozen=True)
class Found:
    """What a detector says is on an image."""

    boxes: Boxes
    """(N, 4) ``x1, y1, x2, y2``."""
    labels: NDArray[np.intp]
    """(N,)."""
    scores: NDArray[np.floating]
    """(N,)."""


def overlaps(first: Boxes, second: Boxes) -> NDArray[np.float64]:
    """Return the intersections over unions, (N, M), of boxes (N, 4) with boxes (M, 4).

    Boxes are ``x1, y1, x2, y2``; an empty box overlaps nothing.
    """
    a, b = first[:, None].astype(np.float64), second[None].astype(np.float64)
    extent = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = extent.clip(min=0).prod(axis=-1)
    union = _area(a) + _area(b) - shared
    ratio: NDArray[np.float64] = np.divide(
        shared, union, out=np.zeros_like(shared), where=union > 0
    )
    return ratio


def average_precisions(
    found: Sequence[Found], marked: Sequence[Marked], *, classes: int, iou: float
) -> NDArray[np.float64]:
    """Return each class's average precision, (classes,); NaN for a class that is on no image.

    The images stand in the same order in both. A detection is right if the box of its class that
    it overlaps most is overlapped by more than ``iou``, and no surer detection has found that box.
    The average precision is the area under the precision that recall can be had at (PASCAL VOC's,
    from 2010 on).
    """
    judged = [_judge(*pair, iou=iou) for pair in zip(found, marked, strict=True)]
    right = np.concatenate([np.empty(0, np.bool_), *judged])
    labels = np.concatenate([np.empty(0, np.intp), *(one.labels for one in found)])
    scores = np.concatenate([np.empty(0), *(one.scores for one in found)])
    wanted = np.concatenate([np.empty(0, np.intp), *(one.labels for one in marked)])
    totals = np.bincount(wanted, minlength=classes)
    order = np.argsort(-scores, kind="stable")
    right, labels = right[order], labels[order]
    areas = [_area_under(right[labels == label], totals[label]) for label in range(classes)]
    return np.array(areas)


def _judge(found: Found, marked: Marked, *, iou: float) -> NDArray[np.bool_]:
    """Return which detections of an image are right, (N,)."""
    right = np.zeros(len(found.boxes), np.bool_)
    if not len(found.boxes) or not len(marked.boxes):
        return right
    shared = overlaps(found.boxes, marked.boxes)
    shared[found.labels[:, None] != marked.labels[None]] = 0
    nearest = shared.argmax(axis=1)
    candidates = np.flatnonzero(shared.max(axis=1) > iou)
    candidates = candidates[np.argsort(-found.scores[candidates], kind="stable")]
    _, first = np.unique(nearest[candidates], return_index=True)
    right[candidates[first]] = True
    return right


def _area_under(right: NDArray[np.bool_], total: int) -> float:
    """Return the area under precision over recall of detections that are ordered by score."""
    if not total:
        return float("nan")
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    # Whoever accepts a lower score can have at least the precision of any later one.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[right].sum() / total)


def _area(boxes: Boxes) -> Boxes:
    area: Boxes = (boxes[..., 2:] - boxes[..., :2]).clip(min=0).prod(axis=-1)
    return area
