"""Networks that suppress by themselves: YOLOv10, and any detector with NMS in its graph."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from services.postprocess.decoders.candidates import (
    BOX,
    Detector,
    SizedParameters,
    frame,
    require_no_nms,
    strongest,
    to_features,
)
from services.postprocess.decoders.protocol import (
    Array,
    Arrays,
    misfit,
    pick,
    pick_as,
    read_parameters,
    require_finite,
    require_scores,
)
from visionmesh.models.spec import ModelSpec

_FIELDS = 6
_MOST_CLASSES = 1 << 16
"""What the features can tell apart."""


class _Parameters(SizedParameters):
    boxes: str | None = None
    scores: str | None = None
    classes: str | None = None
    count: str | None = None
    """The outputs' names, where the network has one for each and the names do not tell."""
    order: Literal["xyxy", "yxyx"] = "xyxy"
    first_class: Annotated[int, Field(ge=0)] = 0
    """The number of the first label: 1 where the network counts from 1."""


class _Boxes(NamedTuple):
    boxes: Array
    scores: Array
    classes: Array


class End2End(Detector):
    """Decodes (K, 6) float: x1, y1, x2, y2, score, class; or an output for each of these.

    The outputs are then (K, 4) boxes, (K,) scores, (K,) classes and, if there is one, the number of
    boxes that are meant (TensorRT's EfficientNMS, TensorFlow's detection models). Boxes are in
    input pixels, or ``normalized``. They are not suppressed again.
    """

    def __init__(self, spec: ModelSpec) -> None:
        require_no_nms(spec)
        self._parameters = read_parameters(_Parameters, spec)
        super().__init__(spec, self._parameters, nms="none")
        self._scale = frame(spec.input, normalized=self._parameters.normalized)

    def reduce(self, outputs: Arrays) -> dict[str, Array]:
        together = self._tensor is not None or len(outputs) == 1
        found = self._rows(outputs) if together else self._columns_of(outputs)
        require_scores(found.scores)
        sure = strongest(found.scores, self.floor)
        boxes = found.boxes[sure].astype(np.float32)
        if self._parameters.order == "yxyx":
            boxes = boxes[:, (1, 0, 3, 2)]
        return to_features(
            boxes * self._scale, found.scores[sure], self._classes(found.classes[sure])
        )

    def _rows(self, outputs: Arrays) -> _Boxes:
        output = pick(outputs, self._tensor)
        if output.ndim != 2 or output.shape[1] != _FIELDS:  # noqa: PLR2004 - boxes and their values
            raise misfit(f"end2end wants (K boxes, {_FIELDS} values), and sees {output.shape}")
        return _Boxes(output[:, :BOX], output[:, BOX], output[:, BOX + 1])

    def _columns_of(self, outputs: Arrays) -> _Boxes:
        names = self._parameters
        boxes = pick_as(outputs, "boxes", names.boxes, ("box",))
        scores = pick_as(outputs, "scores", names.scores, ("score", "conf"))
        classes = pick_as(outputs, "classes", names.classes, ("class", "label", "cls"))
        if boxes.shape != (len(scores), BOX) or not scores.shape == classes.shape == (len(boxes),):
            raise misfit(
                "end2end wants (K, 4) boxes, (K,) scores and (K,) classes, and sees "
                f"{boxes.shape}, {scores.shape} and {classes.shape}"
            )
        count = self._count(outputs, len(boxes))
        return _Boxes(boxes[:count], scores[:count], classes[:count])

    def _count(self, outputs: Arrays, most: int) -> int:
        name = self._parameters.count
        if name is None and not any("num" in key.lower() for key in outputs):
            return most
        output = pick_as(outputs, "count", name, ("num",))
        if output.size != 1:
            raise misfit(f"the count of boxes must be one number, and its shape is {output.shape}")
        require_finite(output)
        count = int(output.reshape(-1)[0])
        if not 0 <= count <= most:
            raise misfit(f"the network counts {count} boxes, and gives {most}")
        return count

    def _classes(self, values: Array) -> Array:
        require_finite(values)
        classes = np.rint(values).astype(np.int64) - self._parameters.first_class
        known = len(self._spec.labels) or _MOST_CLASSES
        if len(classes) and not 0 <= classes.min() <= classes.max() < known:
            raise misfit(
                f"the network tells of classes {classes.min()} to {classes.max()}, and the model "
                f"has {known}: correct labels, or output.first_class"
            )
        return classes
