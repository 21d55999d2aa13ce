"""From the network's output to scores or candidates, in ONNX operators: one writer per decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from visionmesh.models.completing.wiring import Wiring
from visionmesh.models.spec import InputSpec, ModelSpec

_BOX, _HEAD = 4, 5
"""Values of a box, and with its objectness."""


class Candidates(NamedTuple):
    """Names of what a detector says of A boxes in each of B images."""

    boxes: str
    """(B, A, 4) ``x1, y1, x2, y2`` in pixels of the input."""
    classes: str
    """(B, C, A): scores of the classes."""
    objectness: str | None = None
    """(B, 1, A): what they are multiplied by."""


def write_scores(wiring: Wiring, output: str, spec: ModelSpec) -> str:
    """Return (B, C) scores of a classifier's output of any shape."""
    values = wiring.add("Reshape", output, wiring.whole([0, -1]))
    match spec.output.parameters.get("activation", "softmax"):
        case "softmax":
            return wiring.add("Softmax", values, axis=1)
        case "sigmoid":
            return wiring.add("Sigmoid", values)
        case _:
            return values


def yolov8(wiring: Wiring, output: str, spec: ModelSpec) -> Candidates:
    """Read (B, 4 + C, A): centre x and y, width, height, class scores."""
    rows = wiring.add("Transpose", wiring.part(output, 0, _BOX, axis=1), perm=[0, 2, 1])
    return Candidates(_decoded(wiring, rows, spec), wiring.part(output, _BOX, None, axis=1))


def yolov5(wiring: Wiring, output: str, spec: ModelSpec) -> Candidates:
    """Read (B, A, 5 + C): centre x and y, width, height, objectness, class scores."""
    rows = wiring.part(output, 0, _BOX, axis=2)
    return Candidates(_decoded(wiring, rows, spec), *_judged(wiring, output))


def yolox(wiring: Wiring, output: str, spec: ModelSpec) -> Candidates:
    """Read (B, A, 5 + C): offsets in cells, log sizes, objectness, class scores."""
    cells, strides = _grid(spec.input, spec.output.parameters.get("strides", (8, 16, 32)))
    pitch = wiring.numbers(strides)
    offsets = wiring.add("Add", wiring.part(output, 0, 2, axis=2), wiring.numbers(cells))
    sizes = wiring.add("Exp", wiring.part(output, 2, _BOX, axis=2))
    boxes = _corners(wiring, wiring.add("Mul", offsets, pitch), wiring.add("Mul", sizes, pitch))
    return Candidates(boxes, *_judged(wiring, output))


DETECTORS: Mapping[str, Callable[[Wiring, str, ModelSpec], Candidates]] = MappingProxyType(
    {"yolov5": yolov5, "yolov8": yolov8, "yolox": yolox}
)


def _judged(wiring: Wiring, output: str) -> tuple[str, str]:
    """Return the (B, C, A) class scores and (B, 1, A) objectness of (B, A, 5 + C)."""
    columns = wiring.add("Transpose", output, perm=[0, 2, 1])
    return (
        wiring.part(columns, _HEAD, None, axis=1),
        wiring.part(columns, _BOX, _HEAD, axis=1),
    )


def _decoded(wiring: Wiring, rows: str, spec: ModelSpec) -> str:
    """Return the corners of (B, A, 4) centres and sizes in pixels, or in parts of the input."""
    if spec.output.parameters.get("normalized", False):
        rows = wiring.add("Mul", rows, wiring.numbers([spec.input.width, spec.input.height] * 2))
    return _corners(wiring, wiring.part(rows, 0, 2, axis=2), wiring.part(rows, 2, _BOX, axis=2))


def _corners(wiring: Wiring, centers: str, sizes: str) -> str:
    half = wiring.add("Mul", sizes, wiring.numbers(0.5))
    ends = wiring.add("Sub", centers, half), wiring.add("Add", centers, half)
    return wiring.add("Concat", *ends, axis=2)


def _grid(
    size: InputSpec, strides: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the cells' (column, row), (A, 2), and their strides, (A, 1), row by row."""
    cells, pitches = [], []
    for stride in strides:
        columns, rows = np.meshgrid(
            np.arange(size.width // stride), np.arange(size.height // stride)
        )
        cells.append(np.column_stack((columns.ravel(), rows.ravel())))
        pitches.append(np.full((rows.size, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(pitches).astype(np.float32)
