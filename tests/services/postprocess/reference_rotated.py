"""The arithmetic of turned boxes as one would explain it: slow, plain Python, corner by corner."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

Shape = Sequence[float]
"""``x, y, width, height, angle``."""

Point = tuple[float, float]


def corners(shape: Shape) -> list[Point]:
    """Go from the centre half the sides along the turned axes, clockwise from the upper left."""
    x, y, width, height, angle = shape
    along = (math.cos(angle) * width / 2, math.sin(angle) * width / 2)
    down = (-math.sin(angle) * height / 2, math.cos(angle) * height / 2)
    return [
        (x + i * along[0] + j * down[0], y + i * along[1] + j * down[1])
        for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))
    ]


def area(points: list[Point]) -> float:
    """Add up the triangles between the first corner and each side."""
    total = 0.0
    for (ax, ay), (bx, by) in pairwise(points[1:]):
        ox, oy = points[0]
        total += (ax - ox) * (by - oy) - (bx - ox) * (ay - oy)
    return total / 2


def clip(points: list[Point], start: Point, end: Point) -> list[Point]:
    """Keep what lies to the right of a line, seen on an image (Sutherland and Hodgman, 1974)."""

    def side(point: Point) -> float:
        return (end[0] - start[0]) * (point[1] - start[1]) - (end[1] - start[1]) * (
            point[0] - start[0]
        )

    kept: list[Point] = []
    for before, point in zip([*points[-1:], *points[:-1]], points, strict=True):
        a, b = side(before), side(point)
        if a * b < 0:
            part = a / (a - b)
            kept.append(
                (
                    before[0] + part * (point[0] - before[0]),
                    before[1] + part * (point[1] - before[1]),
                )
            )
        if b >= 0:
            kept.append(point)
    return kept


def shared(one: Shape, other: Shape) -> float:
    """Cut from one rectangle what lies beyond each side of the other."""
    points, outline = corners(one), corners(other)
    for start, end in zip(outline, [*outline[1:], outline[0]], strict=True):
        points = clip(points, start, end)
    return area(points) if points else 0.0


def polygon(one: Shape, other: Shape) -> float:
    """Return the intersection over union of two rectangles."""
    both = shared(one, other)
    return both / (one[2] * one[3] + other[2] * other[3] - both)


def probabilistic(one: Shape, other: Shape) -> float:
    """Return 1 minus the Hellinger distance of two normal distributions (arXiv:2106.06072)."""
    a1, b1, c1 = covariance(one)
    a2, b2, c2 = covariance(other)
    x1, y1, x2, y2 = one[0], one[1], other[0], other[1]
    bottom = (a1 + a2) * (b1 + b2) - (c1 + c2) ** 2
    first = ((a1 + a2) * (y1 - y2) ** 2 + (b1 + b2) * (x1 - x2) ** 2) / bottom / 4
    second = (c1 + c2) * (x2 - x1) * (y1 - y2) / bottom / 2
    third = math.log(bottom / (4 * math.sqrt((a1 * b1 - c1**2) * (a2 * b2 - c2**2)))) / 2
    return 1 - math.sqrt(max(1 - math.exp(-(first + second + third)), 0))


def covariance(shape: Shape) -> tuple[float, float, float]:
    _, _, width, height, angle = shape
    w, h = width**2 / 12, height**2 / 12
    a = w * math.cos(angle) ** 2 + h * math.sin(angle) ** 2
    b = w * math.sin(angle) ** 2 + h * math.cos(angle) ** 2
    return a, b, (w - h) * math.sin(angle) * math.cos(angle)


def suppress(
    shapes: list[Shape],
    scores: list[float],
    classes: list[int],
    iou: float,
    overlap: Callable[[Shape, Shape], float],
) -> list[int]:
    """Take the best box that is left, drop what it covers, and so on."""
    left = sorted(range(len(shapes)), key=lambda index: (-scores[index], index))
    kept: list[int] = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [
            index
            for index in left
            if classes[index] != classes[best] or overlap(shapes[index], shapes[best]) <= iou
        ]
    return kept
