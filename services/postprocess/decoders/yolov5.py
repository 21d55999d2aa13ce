"""YOLOv5 and its kin (v6, v7): boxes decoded in the graph, with objectness."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from services.postprocess.decoders.candidates import (
    BOX,
    Detector,
    SizedParameters,
    corners,
    frame,
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
from visionmesh.models.spec import ModelSpec

HEAD = 5
"""Four values of the box and objectness stand before the classes."""


class YoloV5(Detector):
    """Decodes (A, 5 + C) float: centre x and y, width, height, objectness, class scores.

    Boxes are in input pixels, or ``normalized``. A box scores objectness times its best class.
    """

    def __init__(self, spec: ModelSpec) -> None:
        parameters = read_parameters(SizedParameters, spec)
        super().__init__(spec, parameters)
        self.scale = frame(spec.input, normalized=parameters.normalized)
        """What takes the boxes' values to input pixels, (4,) float32."""

    def reduce(self, outputs: Arrays) -> dict[str, Array]:
        found = objects(self.output(outputs), self.floor)
        boxes = found.values[:, :BOX] * self.scale
        return to_features(corners(boxes[:, :2], boxes[:, 2:]), found.scores, found.classes)

    def output(self, outputs: Arrays) -> Array:
        """Return the one to decode; raise `Reject` (model_invalid) if its shape is not as above."""
        output = pick(outputs, self._tensor)
        if output.ndim != 2 or not self._fits(output.shape[1] - HEAD):  # noqa: PLR2004 - boxes, values
            raise misfit(
                f"yolov5 wants (A boxes, {HEAD} + {self._class_count} values) for these labels, "
                f"and sees {output.shape}"
            )
        return output


class Objects(NamedTuple):
    """The surest rows of an output with objectness."""

    rows: Array
    """(N,) intp: which of the output's they are."""
    values: Array
    """(N, 5 + C) float32."""
    scores: Array
    classes: Array


def objects(output: Array, floor: float) -> Objects:
    """Return the rows of an (A, 5 + C) output whose objectness times best class is ``floor``.

    Raises `Reject` (model_failed) if scores among them are not between 0 and 1.
    """
    # Classes score at most 1, so objectness alone rules out nearly all rows, and one column is
    # all that is read of them. Its sum is finite only if each of its values is.
    objectness = output[:, BOX]
    with np.errstate(invalid="ignore"):
        require_finite(objectness.sum(dtype=np.float64))
    likely = np.flatnonzero(objectness >= floor)
    values = output[likely].astype(np.float32, copy=False)
    require_scores(values[:, BOX:])
    classes = values[:, HEAD:].argmax(axis=1)
    scores = values[:, BOX] * values[np.arange(len(values)), HEAD + classes]
    sure = strongest(scores, floor)
    return Objects(likely[sure], values[sure], scores[sure], classes[sure])
