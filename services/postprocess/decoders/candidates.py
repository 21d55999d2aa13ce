"""What every box detector shares: candidates as features, and their way to detections."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from services.postprocess.decoders.protocol import Array, Arrays, Parameters, label, require_finite
from services.postprocess.features import FeaturesError
from services.postprocess.nms import suppress
from visionmesh.contracts import Answer, Detection, Params, Placement
from visionmesh.models.spec import ModelSpec

MAX_CANDIDATES = 1000
"""Boxes of one image that reach suppression, the best of them: an image that has more is noise, and
1,000 keep the features below 20 KB."""

_BOX_DECIMALS = 2
_SCORE_DECIMALS = 6
"""A hundredth of a pixel and what a float32 holds: more digits would only lengthen the results."""


class DetectorParameters(Parameters):
    floor: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    """Boxes that score less are dropped for good, unless the model's own confidence is lower still.
    0.05 keeps a few dozen boxes of a photo; mean average precision is measured with 0.001."""


def strongest(scores: Array, floor: float) -> Array:
    """Return the indices of the scores from ``floor`` on, the `MAX_CANDIDATES` best, ascending."""
    sure = np.flatnonzero(scores >= floor)
    if len(sure) > MAX_CANDIDATES:
        best = np.argsort(-scores[sure], kind="stable")[:MAX_CANDIDATES]
        sure = np.sort(sure[best])
    return sure


def to_features(boxes: Array, scores: Array, classes: Array) -> dict[str, Array]:
    """Return the features of a detector; raise `Reject` (model_failed) if a box is not finite.

    ``boxes`` is (N, 4) ``x1, y1, x2, y2`` in input pixels; ``scores`` and ``classes`` are (N,).
    """
    require_finite(boxes)
    return {
        "boxes": boxes.astype(np.float32, copy=False),
        "scores": np.minimum(scores, 1, dtype=np.float32),
        "classes": classes.astype(np.uint16),
    }


def corners(centers: Array, sizes: Array) -> Array:
    """Return (N, 4) ``x1, y1, x2, y2`` of boxes given by (N, 2) centres and sizes."""
    with np.errstate(over="ignore", invalid="ignore"):  # `to_features` refuses what is not finite
        half = sizes / 2
        return np.concatenate((centers - half, centers + half), axis=1)


class Detector:
    """The second step of a decoder whose features are `to_features`."""

    def __init__(self, spec: ModelSpec, parameters: DetectorParameters) -> None:
        self.floor = min(parameters.floor, spec.output.confidence)
        self._spec = spec

    def answer(
        self, features: Arrays, params: Params, placement: Placement, width: int, height: int
    ) -> Answer:
        """Return the detections: sure enough, not covered by better ones, in the original's pixels.

        Suppression sees the boxes as the network drew them; only then are they clipped to the
        image, and dropped if less than a hundredth of a pixel is left. Sorted by score; equal ones
        keep the network's order.
        """
        boxes, scores, classes = _read(features, self._spec)
        output = self._spec.output
        confidence = output.confidence if params.confidence is None else params.confidence
        iou = output.iou if params.iou is None else params.iou
        limit = params.max_detections or output.max_detections
        sure = np.flatnonzero(scores >= confidence)
        kept = sure[suppress(boxes[sure], scores[sure], classes[sure], iou=iou)]
        placed = _unplace(boxes[kept], placement, width, height)
        inside = np.flatnonzero((placed[:, 2:] > placed[:, :2]).all(axis=1))[:limit]
        kept = kept[inside]
        found = zip(
            classes[kept].tolist(),
            scores[kept].astype(np.float64).round(_SCORE_DECIMALS).tolist(),
            placed[inside].tolist(),
            strict=True,
        )
        return Answer(
            detections=tuple(
                Detection(label=label(self._spec.labels, index), score=score, box=tuple(box))
                for index, score, box in found
            )
        )


def _unplace(boxes: Array, placement: Placement, width: int, height: int) -> Array:
    """Return ``boxes`` of the input (N, 4) in pixels of the original, clipped to it."""
    offset = np.array((placement.offset_x, placement.offset_y) * 2)
    scale = np.array((placement.scale_x, placement.scale_y) * 2)
    original = (boxes - offset) / scale
    clipped: Array = np.clip(original, 0, (width, height) * 2).round(_BOX_DECIMALS)
    return clipped


def _read(features: Arrays, spec: ModelSpec) -> tuple[Array, Array, Array]:
    try:
        boxes, scores, classes = features["boxes"], features["scores"], features["classes"]
    except KeyError as error:
        raise FeaturesError(f"a detector's features have {error}") from error
    count = len(scores)
    if boxes.shape != (count, 4) or scores.shape != (count,) or classes.shape != (count,):
        raise FeaturesError("the features are not candidates of a detector")
    if spec.labels and count and classes.max() >= len(spec.labels):
        raise FeaturesError(f"the features know more classes than {spec.name!r}")
    return boxes, scores, classes
