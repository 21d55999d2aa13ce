"""How many classes a network's outputs tell apart, as far as their shapes say."""

from __future__ import annotations

import math
from collections.abc import Callable

from visionmesh.contracts import TensorMeta
from visionmesh.models.spec import ModelSpec

_Shape = tuple[int, ...]
"""Of one image's output; sizes that only a run can tell are negative."""

_Outputs = tuple[TensorMeta, ...]
"""Of one image: shapes without the batch."""

_BOX = 4
_TABLE, _PLANES = 2, 3
"""Dimensions of boxes and their values, and of maps."""


def class_count(spec: ModelSpec, outputs: _Outputs) -> int | None:
    """Return the number of classes in the ``outputs`` of one image; `None` if it cannot be told.

    Where "no object" may be a class of its own, it counts if ``spec`` has a label for it.
    """
    count = _COUNTERS.get(spec.output.decoder)
    return count(spec, outputs) if count and outputs else None


def _of_softmax(spec: ModelSpec, outputs: _Outputs) -> int | None:
    shape = _decoded(spec, outputs)
    return math.prod(shape) if shape and min(shape) > 0 else None


def _of_boxes(spec: ModelSpec, outputs: _Outputs) -> int | None:
    """Count the classes of (V, A) or (A, V) boxes and their values."""
    shape = _decoded(spec, outputs)
    axis, others = _VALUES[spec.output.decoder]
    return shape[axis] - others if len(shape) == _TABLE and shape[axis] > others else None


def _of_ssd(spec: ModelSpec, outputs: _Outputs) -> int | None:
    """Count the classes of (A, C) scores beside (A, 4) boxes."""
    values = _beside_boxes(spec, outputs)
    background = spec.output.parameters.get("background")
    if values is None or background == "none":
        return values
    return values - (background is not None or values == len(spec.labels) + 1)


def _of_detr(spec: ModelSpec, outputs: _Outputs) -> int | None:
    """Count the classes of (Q, C) logits beside (Q, 4) boxes, or of (Q, 4 + C) boxes and scores."""
    parameters = spec.output.parameters
    activation, tensor = parameters.get("activation"), parameters.get("tensor")
    alone = outputs[0].shape if len(outputs) == 1 else None
    together = _shape(outputs, tensor) or alone
    values = together[-1] - _BOX if together else _beside_boxes(spec, outputs)
    if values is None or values < 1:
        return None
    if activation is None and not together:
        return values - (values == len(spec.labels) + 1)
    return values - (activation == "softmax")


def _beside_boxes(spec: ModelSpec, outputs: _Outputs) -> int | None:
    """Return how many values a box has in the scores; the boxes are another output."""
    named = _shape(outputs, spec.output.parameters.get("scores"))
    tables = [meta.shape for meta in outputs if len(meta.shape) == _TABLE]
    others = [shape for shape in tables if shape[1] != _BOX]
    shape = named or (others[0] if len(others) == 1 else None)
    return shape[-1] if shape and shape[-1] > 0 else None


def _beside_masks(_: ModelSpec, outputs: _Outputs) -> int | None:
    """Count the classes of (4 + C + M, A) boxes beside (M, h, w) mask prototypes."""
    shapes = {len(meta.shape): meta.shape for meta in outputs}
    boxes, masks = shapes.get(_TABLE), shapes.get(_PLANES)
    if boxes is None or masks is None or min(boxes[0], masks[0]) < 0:
        return None
    return boxes[0] - _BOX - masks[0]


def _of_planes(spec: ModelSpec, outputs: _Outputs) -> int | None:
    shape = _decoded(spec, outputs)
    last = spec.output.parameters.get("channels") == "last"
    classes = shape[-1 if last else 0] if len(shape) == _PLANES else 0
    return classes if classes > 1 else None


def _decoded(spec: ModelSpec, outputs: _Outputs) -> _Shape:
    return _shape(outputs, spec.output.parameters.get("tensor")) or outputs[0].shape


def _shape(outputs: _Outputs, name: str | None) -> _Shape | None:
    return next((meta.shape for meta in outputs if meta.name == name), None)


_VALUES = {
    "obb": (0, _BOX + 1),
    "yolov5": (1, _BOX + 1),
    "yolov8": (0, _BOX),
    "yolox": (1, _BOX + 1),
}
"""Which axis a box's values are, and how many of them are no class."""

_COUNTERS: dict[str, Callable[[ModelSpec, _Outputs], int | None]] = {
    **dict.fromkeys(_VALUES, _of_boxes),
    "detr": _of_detr,
    "semantic": _of_planes,
    "softmax": _of_softmax,
    "ssd": _of_ssd,
    "yolov8_seg": _beside_masks,
}
