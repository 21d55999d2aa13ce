"""Trains a detector on boards that are drawn for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from visiontune.boards import LABELS, Board
from visiontune.detector import STRIDE, Detector
from visiontune.objective import Targets, loss, targets


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how fast to learn."""

    epochs: int = 12
    batch: int = 4
    rate: float = 3e-3
    """The greatest learning rate; it rises to it, then falls to nothing."""
    decay: float = 1e-3
    clip: float = 10.0
    """The greatest length of a gradient."""


def batches(
    boards: Sequence[Board], rng: np.random.Generator, size: int
) -> Iterator[tuple[Tensor, Targets]]:
    """Yield the boards in random order, each mirrored and turned at random."""
    order = rng.permutation(len(boards))
    for start in range(0, len(order) - size + 1, size):
        chosen = [turned(boards[i], int(rng.integers(8))) for i in order[start : start + size]]
        images = np.stack([board.image for board in chosen])
        cells = images.shape[1] // STRIDE
        truth = [targets(board.boxes, board.labels, cells=cells) for board in chosen]
        peaks, sides, sure = (
            torch.stack([getattr(one, name) for one in truth])
            for name in ("peaks", "boxes", "sure")
        )
        yield torch.from_numpy(images).float().div_(255)[:, None], Targets(peaks, sides, sure)


def turned(board: Board, way: int) -> Board:
    """Return the board, whose image may be (S, S) or (S, S, 3), in one of its 8 symmetries."""
    image, boxes = board.image, board.boxes
    size = np.float32(image.shape[0])
    if way & 1:
        image, boxes = (
            image[:, ::-1],
            np.stack([size - boxes[:, 2], boxes[:, 1], size - boxes[:, 0], boxes[:, 3]], axis=1),
        )
    if way & 2:
        image, boxes = (
            image[::-1],
            np.stack([boxes[:, 0], size - boxes[:, 3], boxes[:, 2], size - boxes[:, 1]], axis=1),
        )
    if way & 4:
        image, boxes = image.swapaxes(0, 1), boxes[:, [1, 0, 3, 2]]
    return Board(image, boxes, board.labels)


def train(
    boards: Sequence[Board],
    *,
    plan: Plan,
    seed: int,
    report: Callable[[int, float], None],
) -> Detector:
    """Return a detector that has learned from ``boards``, whose images are (S, S) uint8.

    ``report`` is told each epoch's number and mean loss.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    detector = Detector(len(LABELS))
    detector.train()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=plan.rate, weight_decay=plan.decay)
    steps = plan.epochs * (len(boards) // plan.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan.rate, steps, pct_start=0.15)
    for epoch in range(plan.epochs):
        losses = []
        for images, truth in batches(boards, rng, plan.batch):
            # Half the time of float32 where the processor knows bfloat16.
            with torch.autocast("cpu", torch.bfloat16):
                raw = detector(images)
            error = loss(raw.float(), truth)
            optimizer.zero_grad()
            error.backward()
            nn.utils.clip_grad_norm_(detector.parameters(), plan.clip)
            optimizer.step()
            schedule.step()
            losses.append(error.item())
        report(epoch + 1, float(np.mean(losses)))
    detector.eval()
    return detector
