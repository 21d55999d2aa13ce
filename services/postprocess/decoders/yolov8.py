"""YOLOv8 and its successors with the same head: boxes decoded in the graph, no objectness."""

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


class YoloV8(Detector):
    """Decodes (4 + C, A) float: centre x and y, width, height, class scores.

    Boxes are in input pixels, or ``normalized``.
    """

    def __init__(self, spec: ModelSpec) -> None:
        parameters = read_parameters(SizedParameters, spec)
        super().__init__(spec, parameters)
        self.scale = frame(spec.input, normalized=parameters.normalized)
        """What takes the boxes' values to input pixels, (4,) float32."""

    def reduce(self, outputs: Arrays) -> dict[str, Array]:
        found = surest(self.output(outputs), self.floor)
        boxes = found.values[:BOX].T * self.scale
        return to_features(corners(boxes[:, :2], boxes[:, 2:]), found.scores, found.classes)

    def output(self, outputs: Arrays) -> Array:
        """Return the one to decode; raise `Reject` (model_invalid) if its shape is not as above."""
        output = pick(outputs, self._tensor)
        if output.ndim != 2 or not self._fits(output.shape[0] - BOX):  # noqa: PLR2004 - values, boxes
            raise misfit(
                f"yolov8 wants ({BOX} + {self._class_count} values, A boxes) for these labels, "
                f"and sees {output.shape}"
            )
        return output


class Surest(NamedTuple):
    """The surest columns of an output without objectness."""

    values: Array
    """(V, N) float32: all that the output says of them."""
    scores: Array
    classes: Array


def surest(output: Array, floor: float, extra: int = 0) -> Surest:
    """Return the columns of a (4 + C + ``extra``, A) output whose best class scores ``floor``.

    Raises `Reject` (model_failed) if scores among them are not between 0 and 1.
    """
    classes = slice(BOX, output.shape[0] - extra)
    best = output[classes].max(axis=0)
    require_finite(best)  # a NaN among a box's scores is their maximum
    sure = strongest(best, floor)
    values = output.take(sure, axis=1).astype(np.float32, copy=False)
    require_scores(values[classes])
    return Surest(values, best[sure], values[classes].argmax(axis=0))
