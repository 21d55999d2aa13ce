"""YOLOX: one prediction per cell of three grids, not yet decoded."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from services.postprocess.decoders.candidates import (
    BOX,
    Detector,
    DetectorParameters,
    corners,
    to_features,
)
from services.postprocess.decoders.protocol import (
    Array,
    Arrays,
    misfit,
    pick,
    read_parameters,
)
from services.postprocess.decoders.yolov5 import HEAD, objects
from visionmesh.models.spec import InputSpec, ModelSpec


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
        self.cells, self.strides = _grid(spec.input, parameters.strides)
        """Column and row of each prediction, (A, 2) float32, and its stride, (A, 1) float32."""

    def reduce(self, outputs: Arrays) -> dict[str, Array]:
        found = objects(self.output(outputs), self.floor)
        strides = self.strides[found.rows]
        with np.errstate(over="ignore"):  # an infinite size is refused with the features
            sizes = np.exp(found.values[:, 2:BOX]) * strides
        centers = (found.values[:, :2] + self.cells[found.rows]) * strides
        return to_features(corners(centers, sizes), found.scores, found.classes)

    def output(self, outputs: Arrays) -> Array:
        """Return the one to decode; raise `Reject` (model_invalid) if its shape is not as above."""
        output = pick(outputs, self._tensor)
        cells = len(self.cells)
        if (
            output.ndim != 2  # noqa: PLR2004 - cells and their values
            or output.shape[0] != cells
            or not self._fits(output.shape[1] - HEAD)
        ):
            raise misfit(
                f"yolox wants ({cells} cells, {HEAD} + {self._class_count} values) for this input "
                f"size, these strides and these labels, and sees {output.shape}"
            )
        return output


def _grid(size: InputSpec, strides: tuple[int, ...]) -> tuple[Array, Array]:
    """Return the cells' (column, row) as (A, 2) float32 and their strides as (A, 1) float32."""
    cells, pitches = [], []
    for stride in strides:
        rows, columns = np.mgrid[: size.height // stride, : size.width // stride]
        cells.append(np.stack((columns, rows), axis=-1).reshape(-1, 2))
        pitches.append(np.full((rows.size, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(pitches).astype(np.float32)
