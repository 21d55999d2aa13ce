"""YOLOX: one prediction per cell of three grids, not yet decoded."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from services.postprocess.decoders.candidates import (
    Detector,
    DetectorParameters,
    corners,
    strongest,
    to_features,
)
from services.postprocess.decoders.protocol import (
    Array,
    Arrays,
    misfit,
    pick,
    read_parameters,
    require_finite,
    require_scores,
)
from visionmesh.models.spec import InputSpec, ModelSpec

_BOX = 4
_HEAD = 5
"""Centre, size and objectness stand before the classes."""


class _Parameters(DetectorParameters):
    strides: tuple[Annotated[int, Field(ge=1)], ...] = (8, 16, 32)
    """Input pixels per cell, in the order in which the grids are concatenated."""


class YoloX(Detector):
    """Decodes (A, 5 + C) float: centre offsets, log sizes, objectness, class scores.

    A cell (column, row) of stride s has its centre at ``(offset + (column, row)) * s`` and the size
    ``exp(log size) * s``; its score is objectness times the best class score, both with sigmoid
    already applied (Ge et al., YOLOX, arXiv:2107.08430, and the demo of its ONNX export).
    """

    def __init__(self, spec: ModelSpec) -> None:
        parameters = read_parameters(_Parameters, spec)
        super().__init__(spec, parameters)
        self._tensor = parameters.tensor
        self._cells, self._strides = _grid(spec.input, parameters.strides)

    def reduce(self, outputs: Arrays) -> dict[str, Array]:
        output = pick(outputs, self._tensor)
        self._check(output)
        # Classes score at most 1, so objectness alone rules out nearly all cells, and one column is
        # all that is read of them. Its sum is finite only if each of its values is.
        objectness = output[:, _BOX]
        with np.errstate(invalid="ignore"):
            require_finite(objectness.sum(dtype=np.float64))
        likely = np.flatnonzero(objectness >= self.floor)
        rows = output[likely].astype(np.float32, copy=False)
        require_scores(rows[:, _BOX:])
        classes = rows[:, _HEAD:].argmax(axis=1)
        scores = rows[:, _BOX] * rows[np.arange(len(rows)), _HEAD + classes]
        sure = strongest(scores, self.floor)
        cells, rows = likely[sure], rows[sure]
        strides = self._strides[cells]
        with np.errstate(over="ignore"):  # an infinite size is refused with the features
            sizes = np.exp(rows[:, 2:_BOX]) * strides
        centers = (rows[:, :2] + self._cells[cells]) * strides
        return to_features(corners(centers, sizes), scores[sure], classes[sure])

    def _check(self, output: Array) -> None:
        classes = len(self._spec.labels)
        cells = len(self._cells)
        if (
            output.ndim != 2  # noqa: PLR2004 - cells and their values
            or output.shape[0] != cells
            or (output.shape[1] != _HEAD + classes if classes else output.shape[1] <= _HEAD)
        ):
            raise misfit(
                f"yolox wants ({cells} cells, {_HEAD} + {classes or 'C'} values) for this input "
                f"size, these strides and these labels, and sees {output.shape}"
            )


def _grid(size: InputSpec, strides: tuple[int, ...]) -> tuple[Array, Array]:
    """Return the cells' (column, row) as (A, 2) float32 and their strides as (A, 1) float32."""
    cells, pitches = [], []
    for stride in strides:
        rows, columns = np.mgrid[: size.height // stride, : size.width // stride]
        cells.append(np.stack((columns, rows), axis=-1).reshape(-1, 2))
        pitches.append(np.full((rows.size, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(pitches).astype(np.float32)
