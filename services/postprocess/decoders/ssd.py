"""SSD and its kin: scores and boxes of many prior boxes, as two outputs."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from services.postprocess.decoders.activations import Activation, activate
from services.postprocess.decoders.candidates import (
    BOX,
    Detector,
    SizedParameters,
    corners,
    frame,
    strongest_pairs,
    to_features,
)
from services.postprocess.decoders.protocol import (
    Array,
    Arrays,
    misfit,
    pick_boxes_and_scores,
    read_parameters,
    require_scores,
)
from visionmesh.contracts import Frozen
from visionmesh.models.spec import InputSpec, ModelSpec

_Positive = Annotated[float, Field(gt=0.0)]


class _Grid(Frozen):
    """The prior boxes of one feature map: row by row, cell by cell, size by size."""

    stride: _Positive
    """Input pixels per cell; a box's centre is its cell's."""
    sizes: Annotated[tuple[tuple[_Positive, _Positive], ...], Field(min_length=1)]
    """Width and height in input pixels."""
    cells: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    """Columns and rows; `None`: as many as cover the input."""


class SsdParameters(SizedParameters):
    normalized: bool = True
    boxes: str | None = None
    scores: str | None = None
    """The outputs' names, where shapes and names do not tell."""
    activation: Activation = "none"
    background: Literal["first", "last", "none"] | None = None
    """Which class is no object; `None`: the first if there is one more than labels, else none."""
    encoding: Literal["corners", "centers", "offsets"] = "corners"
    """x1, y1, x2, y2; or centre x and y, width, height; or these relative to `priors`."""
    order: Literal["xy", "yx"] = "xy"
    """What comes first in each pair of a box's values."""
    priors: tuple[_Grid, ...] | tuple[tuple[float, float, _Positive, _Positive], ...] = ()
    """Of the offsets: grids, or one box after the other as centre x and y, width and height in the
    units of the boxes."""
    variances: tuple[_Positive, _Positive, _Positive, _Positive] = (0.1, 0.1, 0.2, 0.2)
    """Factors of the offsets: x, y, width, height."""


class Ssd(Detector):
    """Decodes (A, C) scores and (A, 4) boxes.

    Offsets ``t`` from a prior box ``d`` with the variances ``v`` mean the centre ``d_c + t_c v_c
    d_size`` and the size ``d_size exp(t_size v_size)`` (Liu et al., SSD, arXiv:1512.02325, and its
    code for the variances). Each class of a box is a candidate of its own, as there.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._parameters = parameters = read_parameters(SsdParameters, spec)
        if (parameters.encoding == "offsets") != bool(parameters.priors):
            raise ValueError("parameter priors: offsets need them, and other boxes have none")
        if not spec.labels and parameters.background is None:
            raise ValueError("without labels, parameter background must be first, last or none")
        super().__init__(spec, parameters)
        self._scale = frame(spec.input, normalized=parameters.normalized)
        self._priors = prior_boxes(spec.input, parameters) / self._scale

    def reduce(self, outputs: Arrays) -> dict[str, Array]:
        boxes, values = pick_boxes_and_scores(
            outputs, self._parameters.boxes, self._parameters.scores
        )
        if len(self._priors) not in (0, len(boxes)):
            raise misfit(f"there are {len(self._priors)} priors for {len(boxes)} boxes")
        scores = activate(values.astype(np.float32, copy=False), self._parameters.activation)
        require_scores(scores)
        rows, classes, sure = strongest_pairs(scores[:, self.labelled(scores.shape[1])], self.floor)
        return to_features(self._corners(boxes[rows].astype(np.float32), rows), sure, classes)

    def labelled(self, columns: int) -> slice:
        """Return which of the scores' ``columns`` are the labels'.

        Raises
        ------
        Reject
            (model_invalid) If there are more or fewer than labels.
        """
        labels = len(self._spec.labels)
        background = self._parameters.background
        if background is None:
            background = "first" if columns == labels + 1 else "none"
        known = columns - (background != "none")
        if not self._fits(known):
            raise misfit(
                f"ssd wants {self._class_count} classes, and sees {columns} "
                f"(background: {background}): correct labels, or output.background"
            )
        start = int(background == "first")
        return slice(start, start + known)

    def _corners(self, boxes: Array, rows: Array) -> Array:
        """Return the boxes of these rows as x1, y1, x2, y2 in input pixels."""
        if self._parameters.order == "yx":
            boxes = boxes[:, (1, 0, 3, 2)]
        if self._parameters.encoding == "offsets":
            priors, factors = self._priors[rows], np.array(self._parameters.variances, np.float32)
            with np.errstate(over="ignore"):  # an infinite size is refused with the features
                boxes = np.concatenate(
                    (
                        priors[:, :2] + boxes[:, :2] * factors[:2] * priors[:, 2:],
                        priors[:, 2:] * np.exp(boxes[:, 2:] * factors[2:]),
                    ),
                    axis=1,
                )
        boxes = boxes * self._scale
        if self._parameters.encoding == "corners":
            return boxes
        return corners(boxes[:, :2], boxes[:, 2:])


def prior_boxes(size: InputSpec, parameters: SsdParameters) -> Array:
    """Return centre x and y, width, height of all prior boxes in input pixels, (A, 4) float32."""
    rows = []
    for prior in parameters.priors:
        if isinstance(prior, _Grid):
            rows.append(_cells(size, prior))
        else:
            rows.append(np.array(prior)[None] * frame(size, normalized=parameters.normalized))
    return np.concatenate(rows).astype(np.float32) if rows else np.empty((0, BOX), np.float32)


def _cells(size: InputSpec, grid: _Grid) -> Array:
    across = math.ceil(size.width / grid.stride), math.ceil(size.height / grid.stride)
    columns, rows = grid.cells or across
    shape = (rows, columns, len(grid.sizes))
    boxes = np.empty((*shape, BOX))
    boxes[..., 0] = (np.arange(columns)[:, None] + 0.5) * grid.stride
    boxes[..., 1] = (np.arange(rows)[:, None, None] + 0.5) * grid.stride
    boxes[..., 2:] = grid.sizes
    return boxes.reshape(-1, BOX)
