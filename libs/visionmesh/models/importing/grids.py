"""Detectors with a prediction for each cell of some grids: the YOLO families."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from visionmesh.models.importing.seen import Array, Guess, Seen
from visionmesh.models.spec import Task

_STRIDES = (4, 8, 16, 32, 64, 128)
_USUAL = (8, 16, 32)
_COARSEST = 16
"""A detector's finest grid is at least as fine; 300 boxes of another kind are no grid of 64."""
_BOX = 4
_HEAD = 5
"""Values of a box and its objectness."""
_ANCHORS = 3
"""Boxes per cell of the families with anchors."""
_MATRIX, _VOLUME = 2, 3
_UNIT = 1.5
"""Boxes as parts of the input end about here, and boxes in pixels far above."""


class _Grid(NamedTuple):
    strides: tuple[int, ...]
    anchors: int


def yolov8(seen: Seen) -> Guess | None:
    """(4 + C, A): a box and its classes, as columns."""
    found = _columns(seen)
    if found is None or _has_prototypes(seen) or _has_angle(seen, found):
        return None
    output = seen.outputs[found]
    return _guess("yolov8", found, output.shape[0] - _BOX, output, _normalized(output[:_BOX]))


def obb(seen: Seen) -> Guess | None:
    """(4 + C + 1, A): a box, its classes and its angle, as columns."""
    found = _columns(seen)
    if found is None or _has_prototypes(seen) or not _has_angle(seen, found):
        return None
    output = seen.outputs[found]
    return _guess("obb", found, output.shape[0] - _BOX - 1, output, _normalized(output[:_BOX]))


def yolov8_seg(seen: Seen) -> Guess | None:
    """(4 + C + M, A) and (M, h, w): boxes with the shares of M prototypes of masks."""
    found, volumes = _columns(seen), _volumes(seen)
    if found is None or len(volumes) != 1:
        return None
    output, prototypes = seen.outputs[found], seen.outputs[volumes[0]]
    classes = output.shape[0] - _BOX - prototypes.shape[0]
    if classes < 1:
        return None
    return Guess(
        decoder="yolov8_seg",
        task=Task.SEGMENTATION,
        uses=(found, volumes[0]),
        classes=classes,
        why=f"{found} {output.shape} has boxes and {volumes[0]} {prototypes.shape} prototypes",
        parameters=_normalized(output[:_BOX]),
    )


def yolov5(seen: Seen) -> Guess | None:
    """(A, 5 + C): a box in pixels, objectness and classes, as rows."""
    found = _rows(seen)
    if found is None or _has_prototypes(seen):
        return None
    name, grid = found
    output = seen.outputs[name]
    if grid.anchors != _ANCHORS and _is_raw(output, seen):
        return None
    return _guess("yolov5", name, output.shape[1] - _HEAD, output, _normalized(output[:, :_BOX].T))


def yolox(seen: Seen) -> Guess | None:
    """(A, 5 + C): offsets in cells, objectness and classes, as rows."""
    found = _rows(seen)
    if found is None or _has_prototypes(seen):
        return None
    name, grid = found
    output = seen.outputs[name]
    if grid.anchors == _ANCHORS or not _is_raw(output, seen):
        return None
    own = {} if grid.strides == _USUAL else {"strides": grid.strides}
    return _guess("yolox", name, output.shape[1] - _HEAD, output, own)


def is_grid(count: int, seen: Seen) -> bool:
    """Say whether grids over the input have so many cells, or three times as many."""
    return _grid(count, seen) is not None


def _guess(decoder: str, name: str, classes: int, output: Array, own: dict[str, Any]) -> Guess:
    return Guess(
        decoder=decoder,
        uses=(name,),
        classes=classes,
        why=f"{name} is {output.shape}, one box for each cell of its grids",
        parameters=own,
    )


def _grid(count: int, seen: Seen) -> _Grid | None:
    runs = [
        _STRIDES[first:last]
        for first in range(len(_STRIDES))
        for last in range(first + 1, len(_STRIDES) + 1)
        if _STRIDES[first] <= _COARSEST
    ]
    for strides in sorted(runs, key=lambda run: run != _USUAL):
        cells = sum((seen.width // stride) * (seen.height // stride) for stride in strides)
        for anchors in (1, _ANCHORS) if len(strides) > 1 else (1,):
            if cells and cells * anchors == count:
                return _Grid(strides, anchors)
    return None


def _columns(seen: Seen) -> str | None:
    found = [
        name
        for name, array in _matrices(seen).items()
        if array.shape[0] > _BOX
        and array.shape[1] > array.shape[0]
        and is_grid(array.shape[1], seen)
    ]
    return found[0] if len(found) == 1 else None


def _rows(seen: Seen) -> tuple[str, _Grid] | None:
    found = [
        (name, grid)
        for name, array in _matrices(seen).items()
        if array.shape[1] > _HEAD
        and array.shape[0] > array.shape[1]
        and (grid := _grid(array.shape[0], seen)) is not None
    ]
    return found[0] if len(found) == 1 else None


def _matrices(seen: Seen) -> dict[str, Array]:
    return {
        name: array
        for name, array in seen.outputs.items()
        if array.ndim == _MATRIX and array.dtype.kind == "f"
    }


def _volumes(seen: Seen) -> list[str]:
    return [
        name
        for name, array in seen.outputs.items()
        if array.ndim == _VOLUME
        and array.shape[1] > 1
        and array.shape[2] > 1
        and array.shape[0] < seen.width
    ]


def _has_prototypes(seen: Seen) -> bool:
    return bool(_volumes(seen)) and len(seen.outputs) == _MATRIX


def _has_angle(seen: Seen, name: str) -> bool:
    """Say whether the last value of each box is an angle.

    If the number of classes does not tell, the end of the graph does: boxes, classes and one value
    more are joined there.
    """
    values = seen.outputs[name].shape[0] - _BOX
    if seen.labels is not None and seen.labels in (values, values - 1):
        return bool(seen.labels == values - 1)
    maker = seen.maker(name)
    if maker is None or maker.op_type != "Concat" or len(maker.input) <= _MATRIX:
        return False
    last = seen.maker(maker.input[-1])
    return last is None or str(last.op_type) != "Sigmoid"


def _normalized(boxes: Array) -> dict[str, Any]:
    return {"normalized": True} if float(np.abs(boxes).max(initial=0)) <= _UNIT else {}


def _is_raw(output: Array, seen: Seen) -> bool:
    """Say whether boxes are still relative to their cells: none lies in its lower right quarter."""
    centers = output[:, :2].max(axis=0, initial=0)
    return bool(centers[0] <= seen.width / 2 or centers[1] <= seen.height / 2)
