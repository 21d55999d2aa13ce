"""What a detector says before its boxes are compared, and the steps that lead there for several."""

from __future__ import annotations

from typing import NamedTuple

from visionmesh.models.completing.wiring import Wiring
from visionmesh.models.spec import InputSpec

BOX = 4
"""Values of a box."""


class Table(NamedTuple):
    """An output that a decoder reads."""

    value: str
    """Its name in the graph: (B, …) float32."""
    shape: tuple[int, ...]
    """Of one image; sizes that only a run can tell are negative."""


class Candidates(NamedTuple):
    """Names of what a detector says of A boxes in each of B images."""

    boxes: str
    """(B, A, 4) ``x1, y1, x2, y2`` in pixels of the input."""
    classes: str
    """(B, C, A): scores of the classes."""
    objectness: str | None = None
    """(B, 1, A): what they are multiplied by."""
    pairs: bool = False
    """Each class of a box is a candidate of its own; else only the best is one."""
    final: bool = False
    """The network chose for good: boxes are not suppressed."""


def activated(wiring: Wiring, values: str, activation: str) -> str:
    """Return the scores that ``values`` stand for; softmax runs along the last axis."""
    match activation:
        case "softmax":
            return wiring.add("Softmax", values, axis=-1)
        case "sigmoid":
            return wiring.add("Sigmoid", values)
        case _:
            return values


def framed(wiring: Wiring, rows: str, size: InputSpec, *, normalized: bool) -> str:
    """Return (B, A, 4) rows of ``x, y, x, y`` in input pixels."""
    if not normalized:
        return rows
    return wiring.add("Mul", rows, wiring.numbers([size.width, size.height] * 2))


def cornered(wiring: Wiring, rows: str) -> str:
    """Return the corners of (B, A, 4) centres and sizes."""
    return corners(wiring, wiring.part(rows, 0, 2, axis=2), wiring.part(rows, 2, BOX, axis=2))


def corners(wiring: Wiring, centers: str, sizes: str) -> str:
    """Return the corners of (B, A, 2) centres and (B, A, 2) sizes."""
    half = wiring.add("Mul", sizes, wiring.numbers(0.5))
    ends = wiring.add("Sub", centers, half), wiring.add("Add", centers, half)
    return wiring.add("Concat", *ends, axis=2)
