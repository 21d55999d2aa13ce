"""Greedy non-maximum suppression within classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[Any]

_BLOCK = 128
"""Boxes compared with each other at once: one block is the usual image, and 1,000 crowded boxes
cost 1,000 times the survivors rather than 1,000 squared."""


def suppress(boxes: _Array, scores: _Array, classes: _Array, *, iou: float) -> npt.NDArray[np.intp]:
    """Return the indices of the boxes that no better box of their class covers, best first.

    A box goes if its intersection over union with a kept one is greater than ``iou``. Of equal
    scores the lower index counts as the better.

    ``boxes`` is (N, 4) ``x1, y1, x2, y2``; ``scores`` and ``classes`` are (N,).
    """
    order = np.argsort(-scores, kind="stable")
    boxes = boxes[order].astype(np.float64)
    classes = classes[order]
    kept = np.empty(0, np.intp)
    for start in range(0, len(order), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(order)))
        if len(kept):
            block = block[~_covers(boxes, classes, kept, block, iou).any(axis=0)]
        fresh = _greedy(_covers(boxes, classes, block, block, iou))
        kept = np.concatenate((kept, block[fresh]))
    return order[kept]


def _covers(
    boxes: _Array, classes: _Array, first: _Array, second: _Array, iou: float
) -> npt.NDArray[np.bool_]:
    """Say which boxes of ``first`` (rows) cover which of ``second`` (columns)."""
    a, b = boxes[first, :, None], boxes.T[:, None, second]
    overlap_x = np.minimum(a[:, 2], b[2]) - np.maximum(a[:, 0], b[0])
    overlap_y = np.minimum(a[:, 3], b[3]) - np.maximum(a[:, 1], b[1])
    shared = np.maximum(overlap_x, 0) * np.maximum(overlap_y, 0)
    area_a = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1])
    area_b = (b[2] - b[0]) * (b[3] - b[1])
    # Not divided: boxes without area have no intersection over union, and cover nothing.
    covers: npt.NDArray[np.bool_] = shared > iou * (area_a + area_b - shared)
    covers &= classes[first, None] == classes[second]
    return covers


def _greedy(covers: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Say which boxes, sorted best first, survive greedy suppression.

    Starts from "all survive" and repeats "who is covered by a survivor before it goes" until
    nothing changes. After round k the first k boxes are settled, so the fixed point is the greedy
    choice (Cluster-NMS, Zheng et al., arXiv:2005.03572); rounds number the longest chain of boxes
    that cover each other, usually two to four.
    """
    covers = np.triu(covers, 1)
    alive: npt.NDArray[np.bool_] = ~np.any(covers, axis=0)
    while True:
        survivors: npt.NDArray[np.bool_] = ~np.any(covers[alive], axis=0)
        if np.array_equal(survivors, alive):
            return alive
        alive = survivors
