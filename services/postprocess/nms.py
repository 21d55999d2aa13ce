"""Non-maximum suppression: of boxes that cover each other, only the best keep their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[Any]
_Indices = npt.NDArray[np.intp]

Overlap = Callable[[_Array, _Array], tuple[_Array, _Array]]
"""Compares shapes pair by pair: takes two (K, …) float64 arrays of K values per shape, whose other
dimensions broadcast against each other, and returns intersections and unions."""

_BLOCK = 64
"""Boxes compared with each other at once: one block is the usual image, its matrices stay in the
processor's cache, and 1,000 crowded boxes cost 1,000 times the survivors, not 1,000 squared."""


def upright(better: _Array, worse: _Array) -> tuple[_Array, _Array]:
    """Return intersection and union of boxes ``x1, y1, x2, y2``; an `Overlap`."""
    sides = np.minimum(better[2:4], worse[2:4])
    sides -= np.maximum(better[:2], worse[:2])
    np.maximum(sides, 0, out=sides)
    shared = sides[0] * sides[1]
    return shared, _area(better) + _area(worse) - shared


def suppress(
    shapes: _Array, scores: _Array, classes: _Array, *, iou: float, overlap: Overlap = upright
) -> _Indices:
    """Return the indices of the boxes that no better box of their class covers, best first.

    A box goes if its intersection over union with a kept one is greater than ``iou``. Of equal
    scores the lower index counts as the better.

    ``shapes`` is (N, K) as ``overlap`` wants them; ``scores`` and ``classes`` are (N,).
    """
    order = ranking(scores)
    ranked = _rows(shapes[order], classes[order])
    kept = np.empty(0, np.intp)
    for start in range(0, len(order), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(order)))
        if len(kept):
            better, worse = _at(ranked, kept), _at(ranked, block)
            block = block[~_covers(better, worse, iou, overlap).any(axis=0)]
        rivals = _at(ranked, block)
        fresh = block[_greedy(_covers(rivals, rivals, iou, overlap))]
        kept = np.concatenate((kept, fresh)) if len(kept) else fresh
    return order[kept]


def soften(
    shapes: _Array,
    scores: _Array,
    classes: _Array,
    *,
    least: _Array,
    sigma: float,
    overlap: Overlap = upright,
) -> tuple[_Indices, npt.NDArray[np.float64]]:
    """Return the indices and new scores of the boxes that still score ``least``, best first.

    Gaussian soft-NMS (Bodla et al., arXiv:1704.04503): the best box that is left is taken, and each
    other one of its class keeps ``exp(-iou² / sigma)`` of its score; and so on. Of equal scores the
    lower index counts as the better.

    ``shapes`` is (N, K) as ``overlap`` wants them; ``scores``, ``classes`` and ``least`` are (N,).
    """
    rows = _rows(shapes, classes)
    left = np.where(scores >= least, scores, -np.inf).astype(np.float64)
    taken: list[int] = []
    final: list[float] = []
    # One box after the other: which is next is known only when the last one has had its effect.
    while len(left) and (score := left[best := int(left.argmax())]) >= 0:
        taken.append(best)
        final.append(score)
        left[best] = -np.inf
        rivals = np.flatnonzero((left >= 0) & (rows[-1] == rows[-1, best]))
        shared, union = overlap(rows[:-1, best, None], _at(rows[:-1], rivals))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(shared > 0, shared / union, 0)
        faded = left[rivals] * np.exp(-(ratio**2) / sigma)
        left[rivals] = np.where(faded >= least[rivals], faded, -np.inf)
    return np.array(taken, np.intp), np.array(final, np.float64)


def ranking(scores: _Array) -> _Indices:
    """Return the indices of ``scores`` from the best to the worst, equal ones in their order."""
    return np.argsort(-scores, kind="stable")


def _rows(shapes: _Array, classes: _Array) -> _Array:
    """Return (K + 1, N) float64: the shapes' values and the class."""
    rows = np.empty((shapes.shape[1] + 1, len(shapes)))
    rows[:-1] = shapes.T
    rows[-1] = classes
    return rows


def _at(rows: _Array, columns: _Indices) -> _Array:
    # Not `rows[:, columns]`: that comes out column by column, and every later step is 3 x slower.
    return rows.take(columns, axis=1)


def _area(boxes: _Array) -> _Array:
    # A side may be negative, and a negative union would be covered by anything.
    area: _Array = np.maximum(boxes[2] - boxes[0], 0) * np.maximum(boxes[3] - boxes[1], 0)
    return area


def _covers(better: _Array, worse: _Array, iou: float, overlap: Overlap) -> npt.NDArray[np.bool_]:
    """Say which of the ``better`` (rows of the answer) cover which of the ``worse`` (columns)."""
    better, worse = better[:, :, None], worse[:, None, :]
    shared, union = overlap(better[:-1], worse[:-1])
    # Not divided: boxes without area have no intersection over union, and cover nothing.
    covers: npt.NDArray[np.bool_] = shared > iou * union
    covers &= better[-1] == worse[-1]
    return covers


def _greedy(covers: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Say which boxes, sorted best first, survive greedy suppression.

    Starts from "all survive" and repeats "who is covered by a survivor before it goes" until
    nothing changes. After round k the first k boxes are settled, so the fixed point is the greedy
    choice (Cluster-NMS, Zheng et al., arXiv:2005.03572); rounds number the longest chain of boxes
    that cover each other, usually two to four.
    """
    rank = np.arange(len(covers))
    covers &= np.less.outer(rank, rank)
    alive: npt.NDArray[np.bool_] = ~np.any(covers, axis=0)
    while True:
        survivors: npt.NDArray[np.bool_] = ~np.any(covers[alive], axis=0)
        if (survivors == alive).all():
            return alive
        alive = survivors
