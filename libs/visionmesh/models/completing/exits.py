"""From the network's output to scores or candidates, in ONNX operators: one writer per decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from visionmesh.models.completing.candidates import (
    BOX,
    Candidates,
    Table,
    activated,
    cornered,
    corners,
    framed,
)
from visionmesh.models.completing.tables import detr, ssd
from visionmesh.models.completing.wiring import Wiring
from visionmesh.models.spec import InputSpec, ModelSpec

_HEAD = BOX + 1
"""Values of a box with its objectness."""


def write_scores(wiring: Wiring, output: str, spec: ModelSpec) -> str:
    """Return (B, C) scores of a classifier's output of any shape."""
    values = wiring.add("Reshape", output, wiring.whole([0, -1]))
    return activated(wiring, values, spec.output.parameters.get("activation", "softmax"))


def yolov8(wiring: Wiring, tables: Sequence[Table], spec: ModelSpec) -> Candidates:
    """Read (B, 4 + C, A): centre x and y, width, height, class scores."""
    output = tables[0].value
    rows = wiring.add("Transpose", wiring.part(output, 0, BOX, axis=1), perm=[0, 2, 1])
    return Candidates(_decoded(wiring, rows, spec), wiring.part(output, BOX, None, axis=1))


def yolov5(wiring: Wiring, tables: Sequence[Table], spec: ModelSpec) -> Candidates:
    """Read (B, A, 5 + C): centre x and y, width, height, objectness, class scores."""
    output = tables[0].value
    rows = wiring.part(output, 0, BOX, axis=2)
    return Candidates(_decoded(wiring, rows, spec), *_judged(wiring, output))


def yolox(wiring: Wiring, tables: Sequence[Table], spec: ModelSpec) -> Candidates:
    """Read (B, A, 5 + C): offsets in cells, log sizes, objectness, class scores."""
    output = tables[0].value
    cells, strides = _grid(spec.input, spec.output.parameters.get("strides", (8, 16, 32)))
    pitch = wiring.numbers(strides)
    offsets = wiring.add("Add", wiring.part(output, 0, 2, axis=2), wiring.numbers(cells))
    sizes = wiring.add("Exp", wiring.part(output, 2, BOX, axis=2))
    boxes = corners(wiring, wiring.add("Mul", offsets, pitch), wiring.add("Mul", sizes, pitch))
    return Candidates(boxes, *_judged(wiring, output))


Writer = Callable[[Wiring, Sequence[Table], ModelSpec], Candidates]

DETECTORS: Mapping[str, Writer] = MappingProxyType(
    {"detr": detr, "ssd": ssd, "yolov5": yolov5, "yolov8": yolov8, "yolox": yolox}
)


def _judged(wiring: Wiring, output: str) -> tuple[str, str]:
    """Return the (B, C, A) class scores and (B, 1, A) objectness of (B, A, 5 + C)."""
    columns = wiring.add("Transpose", output, perm=[0, 2, 1])
    return (
        wiring.part(columns, _HEAD, None, axis=1),
        wiring.part(columns, BOX, _HEAD, axis=1),
    )


def _decoded(wiring: Wiring, rows: str, spec: ModelSpec) -> str:
    """Return the corners of (B, A, 4) centres and sizes in pixels, or in parts of the input."""
    normalized = spec.output.parameters.get("normalized", False)
    return cornered(wiring, framed(wiring, rows, spec.input, normalized=normalized))


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
