"""Greedy non-maximum suppression within classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[Any]

_BLOCK = 64
"""Boxes compared with each other at once: one block is the usual image, its matrices stay in the
processor's cache, and 1,000 crowded boxes cost 1,000 times the survivors, not 1,000 squared."""


def suppress(boxes: _Array, scores: _Array, classes: _Array, *, iou: float) -> npt.NDArray[np.intp]:
    """Return the indices of the boxes that no better box of their class covers, best first.

    A box goes if its intersection over union with a kept one is greater than ``iou``. Of equal
    scores the lower index counts as the better.

    ``boxes`` is (N, 4) ``x1, y1, x2, y2``; ``scores`` and ``classes`` are (N,).
    """
    order = np.argsort(-scores, kind="stable")
    ranked = _rows(boxes[order], classes[order])
    kept = np.empty(0, np.intp)
    for start in range(0, len(order), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(order)))
        if len(kept):
            block = block[~_covers(_at(ranked, kept), _at(ranked, block), iou).any(axis=0)]
        rivals = _at(ranked, block)
        fresh = block[_greedy(_covers(rivals, rivals, iou))]
        kept = np.concatenate((kept, fresh)) if len(kept) else fresh
    return order[kept]


def _rows(boxes: _Array, classes: _Array) -> _Array:
    """Return (6, N) float64: x1, y1, x2, y2, area, class."""
    rows = np.empty((6, len(boxes)))
    rows[:4] = boxes.T
    rows[4] = (rows[2] - rows[0]) * (rows[3] - rows[1])
    rows[5] = classes
    return rows


def _at(rows: _Array, columns: _Array) -> _Array:
    # Not `rows[:, columns]`: that comes out column by column, and every later step is 3 x slower.
    return rows.take(columns, axis=1)


def _covers(better: _Array, worse: _Array, iou: float) -> npt.NDArray[np.bool_]:
    """Say which of the ``better`` (rows of the answer) cover which of the ``worse`` (columns)."""
    better, worse = better[:, :, None], worse[:, None, :]
    sides = np.minimum(better[2:4], worse[2:4])
    sides -= np.maximum(better[:2], worse[:2])
    np.maximum(sides, 0, out=sides)
    shared = sides[0] * sides[1]
    union = better[4] + worse[4] - shared
    # Not divided: boxes without area have no intersection over union, and cover nothing.
    covers: npt.NDArray[np.bool_] = shared > iou * union
    covers &= better[5] == worse[5]
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
