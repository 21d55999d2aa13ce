"""YOLOv8 and its successors with the same head: boxes decoded in the graph, no objectness."""

from __future__ import annotations

import numpy as np

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
from visionmesh.models.spec import ModelSpec

_BOX = 4


class YoloV8(Detector):
    """Decodes (4 + C, A) float: centre x and y, width, height in input pixels, class scores."""

    def __init__(self, spec: ModelSpec) -> None:
        parameters = read_parameters(DetectorParameters, spec)
        super().__init__(spec, parameters)
        self._tensor = parameters.tensor

    def reduce(self, outputs: Arrays) -> dict[str, Array]:
        output = pick(outputs, self._tensor)
        self._check(output)
        best = output[_BOX:].max(axis=0)
        require_finite(best)  # a NaN among a box's scores is their maximum
        sure = strongest(best, self.floor)
        columns = output.take(sure, axis=1).astype(np.float32, copy=False)
        require_scores(columns[_BOX:])
        boxes = corners(columns[:2].T, columns[2:_BOX].T)
        return to_features(boxes, best[sure], columns[_BOX:].argmax(axis=0))

    def _check(self, output: Array) -> None:
        classes = len(self._spec.labels)
        if output.ndim != 2 or (  # noqa: PLR2004 - values and boxes
            output.shape[0] != _BOX + classes if classes else output.shape[0] <= _BOX
        ):
            raise misfit(
                f"yolov8 wants ({_BOX} + {classes or 'C'} values, A boxes) for these labels, "
                f"and sees {output.shape}"
            )
