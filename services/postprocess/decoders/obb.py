"""YOLOv8-OBB and its successors: boxes that are turned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from services.postprocess import rotated
from services.postprocess.decoders.candidates import (
    BOX,
    Chosen,
    Detector,
    SizedParameters,
    frame,
    to_features,
    unplace,
)
from services.postprocess.decoders.protocol import (
    Array,
    Arrays,
    misfit,
    pick,
    read_parameters,
    require_finite,
)
from services.postprocess.decoders.yolov8 import surest
from visionmesh.contracts import Placement
from visionmesh.models.spec import ModelSpec

_OVERLAPS = {"probabilistic": rotated.probabilistic, "polygon": rotated.polygon}
_DECIMALS = 2
"""Of the corners, as of all boxes."""


class _Parameters(SizedParameters):
    overlap: Literal["probabilistic", "polygon"] = "probabilistic"
    """How boxes are compared: as normal distributions, which is how these networks are trained, or
    by the area that they really share."""


class Obb(Detector):
    """Decodes (4 + C + 1, A) float: centre x and y, width, height, class scores, angle in radians.

    The angle turns the box clockwise. Boxes are in input pixels, or ``normalized``. A detection's
    `corners` are those of the box, in pixels of the original and not clipped to it; its `box` is
    what they span, clipped.
    """

    def __init__(self, spec: ModelSpec) -> None:
        parameters = read_parameters(_Parameters, spec)
        super().__init__(
            spec,
            parameters,
            columns=("turned",),
            shapes="turned",
            overlap=_OVERLAPS[parameters.overlap],
        )
        self._scale = frame(spec.input, normalized=parameters.normalized)

    def reduce(self, outputs: Arrays) -> dict[str, Array]:
        output = pick(outputs, self._tensor)
        if output.ndim != 2 or not self._fits(output.shape[0] - BOX - 1):  # noqa: PLR2004 - values, boxes
            raise misfit(
                f"obb wants ({BOX} + {self._class_count} + 1 values, A boxes) for these labels, "
                f"and sees {output.shape}"
            )
        found = surest(output, self.floor, extra=1)
        turned = np.concatenate((found.values[:BOX].T * self._scale, found.values[-1:].T), axis=1)
        require_finite(turned)
        whole = (turned[:, 2:BOX] > 0).all(axis=1)  # what has no area may still span one
        turned = turned[whole]
        corners = rotated.vertices(turned.T)
        boxes = np.concatenate((corners.min(axis=0), corners.max(axis=0))).T
        return to_features(boxes, found.scores[whole], found.classes[whole], turned=turned)

    def details(
        self, features: Arrays, chosen: Chosen, placement: Placement, width: int, height: int
    ) -> Mapping[str, Sequence[Any]]:
        turned = features["turned"][chosen.rows]
        corners = np.moveaxis(rotated.vertices(turned.T.astype(np.float64)), -1, 0)
        return {"corners": unplace(corners, placement).round(_DECIMALS).tolist()}
