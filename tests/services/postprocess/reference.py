"""The decoders' arithmetic as one would explain it: slow, plain Python, box by box."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import pytest
from numpy.typing import NDArray

from visionmesh.contracts import Answer, Placement
from visionmesh.models.spec import ModelSpec


class Found(NamedTuple):
    score: float
    label: int
    box: tuple[float, float, float, float]


def detector(
    decoder: str, classes: int, /, *, size: tuple[int, int], **output: object
) -> ModelSpec:
    """Return the description of a detector whose labels are ``c0``, ``c1`` and so on."""
    return ModelSpec.model_validate(
        {
            "name": "finder",
            "task": "detection",
            "input": {"width": size[0], "height": size[1]},
            "output": {"decoder": decoder, **output},
            "labels": [f"c{index}" for index in range(classes)],
        }
    )


def found(answer: Answer) -> list[Found]:
    """Return what an answer tells of the classes ``c0``, ``c1`` and so on."""
    assert answer.detections is not None
    return [Found(d.score, int(d.label[1:]), d.box) for d in answer.detections]


def agree(got: list[Found], wanted: list[Found]) -> None:
    """Assert that the same objects are told in the same order, up to rounding."""
    assert [one.label for one in got] == [one.label for one in wanted]
    for one, other in zip(got, wanted, strict=True):
        assert one.score == pytest.approx(other.score, abs=2e-6)
        assert one.box == pytest.approx(other.box, abs=0.02)


def sides(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    """Return the sides of a box that is given by its centre and size."""
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def softmax(values: Sequence[float]) -> list[float]:
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def slivers(found: list[Found]) -> bool:
    """Say whether a box is so thin that rounding to hundredths of a pixel may make it nothing."""
    return any(min(x2 - x1, y2 - y1) < 0.05 for _, _, (x1, y1, x2, y2) in found)


def overlap(a: Sequence[float], b: Sequence[float]) -> Fraction:
    """Return the exact intersection over union of two boxes; 0 if neither has an area."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = (map(Fraction, box) for box in (a, b))
    width, height = min(ax2, bx2) - max(ax1, bx1), min(ay2, by2) - max(ay1, by1)
    shared = width * height if width > 0 and height > 0 else Fraction(0)
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared
    return shared / union if union else Fraction(0)


def suppress(
    boxes: Sequence[Sequence[float]], scores: Sequence[float], classes: Sequence[int], iou: float
) -> list[int]:
    """Take the best box that is left, drop what it covers, and so on."""
    left = sorted(range(len(boxes)), key=lambda index: (-scores[index], index))
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [
            index
            for index in left
            if classes[index] != classes[best]
            or overlap(boxes[index], boxes[best]) <= Fraction(iou)
        ]
    return kept


def soften(
    boxes: Sequence[Sequence[float]],
    scores: Sequence[float],
    classes: Sequence[int],
    *,
    least: float,
    sigma: float,
) -> list[tuple[int, float]]:
    """Take the best box that is left, lower the scores of what it covers, and so on."""
    left = {index: score for index, score in enumerate(scores) if score >= least}
    taken = []
    while left:
        best = min(left, key=lambda index: (-left[index], index))
        taken.append((best, left.pop(best)))
        for index in list(left):
            if classes[index] == classes[best]:
                covered = float(overlap(boxes[index], boxes[best]))
                left[index] *= math.exp(-(covered**2) / sigma)
                if left[index] < least:
                    del left[index]
    return taken


def yolox_boxes(output: NDArray[Any], size: tuple[int, int], least: float) -> list[Found]:
    """Return all boxes of at least the score ``least``, in input pixels, cell by cell."""
    found, cell = [], 0
    for stride in (8, 16, 32):
        for row in range(size[1] // stride):
            for column in range(size[0] // stride):
                x, y, log_width, log_height, objectness, *scores = output[cell].tolist()
                cell += 1
                label = max(range(len(scores)), key=scores.__getitem__)
                if objectness * scores[label] < least:
                    continue
                cx, cy = (column + x) * stride, (row + y) * stride
                w, h = math.exp(log_width) * stride, math.exp(log_height) * stride
                box = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
                found.append(Found(objectness * scores[label], label, box))
    return found


def detections(
    boxes: list[Found], *, iou: float | None, placement: Placement, width: int, height: int
) -> list[Found]:
    """Suppress (not at all without ``iou``), bring back to the original, clip, drop the rest."""
    if iou is None:
        kept = sorted(range(len(boxes)), key=lambda index: (-boxes[index].score, index))
    else:
        kept = suppress(
            [b.box for b in boxes], [b.score for b in boxes], [b.label for b in boxes], iou
        )
    answer = []
    for score, label, (x1, y1, x2, y2) in (boxes[index] for index in kept):
        across = [(x - placement.offset_x) / placement.scale_x for x in (x1, x2)]
        down = [(y - placement.offset_y) / placement.scale_y for y in (y1, y2)]
        left, right = (min(max(x, 0.0), width) for x in across)
        top, bottom = (min(max(y, 0.0), height) for y in down)
        if left < right and top < bottom:
            answer.append(Found(score, label, (left, top, right, bottom)))
    return answer
