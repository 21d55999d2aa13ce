"""What the detector should say of a board, and how far its answer is from that."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from visiontune.boards import LABELS
from visiontune.detector import STRIDE, cell_centres, sides

_SPREAD = 0.16
"""Standard deviation of the peak that a box leaves in its class's map, as a share of its side."""
_SURE = 0.3
"""Cells whose part of the peak is above this also learn the box."""
_BOX_WEIGHT = 2.0


@dataclass(frozen=True)
class Targets:
    """What the network should say of an image, or of N images."""

    peaks: Tensor
    """([N,] classes, H, W) float32: 1 in the cell with a box's centre, less around it, else 0."""
    boxes: Tensor
    """([N,] 4, H, W) float32: the sides' distances in pixels where ``sure``."""
    sure: Tensor
    """([N,] H, W) bool."""


def targets(boxes: NDArray[np.float32], labels: NDArray[np.intp], *, cells: int) -> Targets:
    """Return the targets of an image with ``cells`` by ``cells`` cells.

    ``boxes`` is (M, 4) ``x1, y1, x2, y2`` in pixels, ``labels`` (M,).
    """
    x, y = cell_centres(cells, cells)
    if not len(boxes):
        empty = torch.zeros(len(LABELS) + 4, cells, cells)
        return Targets(empty[4:], empty[:4], empty[0] > 0)
    x1, y1, x2, y2 = torch.from_numpy(boxes).float()[:, :, None, None].unbind(1)
    away = ((x - _snap(x1, x2)) / (x2 - x1)) ** 2 + ((y - _snap(y1, y2)) / (y2 - y1)) ** 2
    bumps = torch.exp(-away / (2 * _SPREAD**2))
    none = torch.zeros(len(LABELS), cells, cells)
    own = torch.from_numpy(labels)[:, None, None].expand_as(bumps)
    peaks = none.scatter_reduce(0, own, bumps, "amax")
    height, nearest = bumps.max(dim=0, keepdim=True)
    every = [side.expand_as(bumps) for side in (x - x1, y - y1, x2 - x, y2 - y)]
    distances = torch.cat([side.gather(0, nearest) for side in every])
    return Targets(peaks, distances, height[0] > _SURE)


def _snap(low: Tensor, high: Tensor) -> Tensor:
    """Return the centre of the cell in which the middle lies."""
    return (((low + high) / 2 / STRIDE).floor() + 0.5) * STRIDE


def focal_loss(logits: Tensor, peaks: Tensor) -> Tensor:
    """Return the penalty-reduced focal loss per object (Zhou et al., Objects as Points, eq. 1)."""
    score = logits.sigmoid()
    hit = peaks == 1
    missed = nn.functional.logsigmoid(logits) * (1 - score) ** 2
    invented = nn.functional.logsigmoid(-logits) * score**2 * (1 - peaks) ** 4
    return -torch.where(hit, missed, invented).sum() / hit.sum().clamp(min=1)


def overlap_loss(guess: Tensor, truth: Tensor) -> Tensor:
    """Return 1 - GIoU (Rezatofighi et al. 2019) of boxes around the same points.

    Both are (N, 4): distances to the left, top, right and bottom side, none negative in ``guess``.
    """
    inner, outer = torch.minimum(guess, truth), torch.maximum(guess, truth)
    shared = _area(inner).clamp(min=0)
    union = _area(guess) + _area(truth) - shared
    hull = _area(outer)
    return 1 - shared / union + (hull - union) / hull


def _area(distances: Tensor) -> Tensor:
    left, top, right, bottom = distances.unbind(1)
    return (left + right) * (top + bottom)


def loss(raw: Tensor, truth: Targets) -> Tensor:
    scores = focal_loss(raw[:, 4:], truth.peaks)
    if not truth.sure.any():
        return scores
    guess = sides(raw).movedim(1, -1)[truth.sure]
    boxes = overlap_loss(guess, truth.boxes.movedim(1, -1)[truth.sure])
    return scores + _BOX_WEIGHT * boxes.mean()
