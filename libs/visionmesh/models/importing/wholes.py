"""Networks that answer for the image as a whole, or for each of its pixels."""

from __future__ import annotations

import numpy as np

from visionmesh.models.importing.seen import Array, Guess, Seen
from visionmesh.models.spec import Task

_PLANE, _PLANES = 2, 3
_SMALLEST = 4
"""Rows or columns of a map: what is smaller is a list of something."""
_SLACK = 1e-3


def softmax(seen: Seen) -> Guess | None:
    """(C,), whatever its other dimensions of 1 are: a value for each class."""
    name = _vector(seen)
    if name is None or seen.outputs[name].size < 2:  # noqa: PLR2004 - one class says nothing
        return None
    output = seen.outputs[name]
    activation, why = _activation(seen, name)
    return Guess(
        decoder="softmax",
        task=Task.CLASSIFICATION,
        uses=(name,),
        classes=output.size,
        why=f"{name} is {output.shape}; {why}",
        parameters={"activation": activation} if activation == "none" else {},
        assumed={} if activation == "none" else {"activation": activation},
    )


def embedding(seen: Seen) -> Guess | None:
    """(D,): a vector that stands for the image."""
    name = _vector(seen)
    if name is None:
        return None
    output = seen.outputs[name]
    return Guess(
        decoder="embedding",
        task=Task.EMBEDDING,
        uses=(name,),
        why=f"{name} is {output.shape}",
    )


def semantic(seen: Seen) -> Guess | None:
    """(C, h, w) or (h, w, C) scores, or (h, w) classes: something for each pixel."""
    maps = {name: array for name, array in seen.outputs.items() if _is_map(array, seen)}
    if not maps or len(maps) < len(seen.outputs):
        return None
    # The first is the answer, and others help in training.
    name, output = next(iter(maps.items()))
    why = f"{name} is {output.shape}, a map over the input"
    if output.dtype.kind in "biu":
        return Guess(decoder="semantic", task=Task.SEGMENTATION, uses=(name,), why=why)
    if output.ndim == _PLANE:
        return None
    last = _channels_last(output, seen)
    own: dict[str, object] = {"channels": "last"} if last else {}
    classes = output.shape[-1] if last else output.shape[0]
    likely = {"threshold": 0.5 if _are_shares(output) else 0.0} if classes == 1 else {}
    return Guess(
        decoder="semantic",
        task=Task.SEGMENTATION,
        uses=(name,),
        classes=classes,
        why=why,
        parameters=own,
        assumed=likely,
    )


def anomaly(seen: Seen) -> Guess | None:
    """(h, w) or (1, h, w): how unusual each pixel is, and maybe a score of the image."""
    maps = [
        name
        for name, array in seen.outputs.items()
        if array.dtype.kind == "f" and _is_map(array, seen) and _single(array)
    ]
    scores = [
        name for name, array in seen.outputs.items() if array.dtype.kind == "f" and array.size == 1
    ]
    if len(maps) != 1 or len(scores) > 1:
        return None
    plane = seen.outputs[maps[0]]
    low, high = float(plane.min()), float(plane.max())
    told = f"for noise its values run from {low:.4g} to {high:.4g}, so they are no shares"
    return Guess(
        decoder="anomaly",
        task=Task.ANOMALY,
        uses=(*maps, *scores),
        why=f"{maps[0]} is {plane.shape}, a map over the input",
        parameters={"score": scores[0]} if scores else {},
        wanted={} if _are_shares(plane) else dict.fromkeys(("low", "threshold", "high"), told),
    )


def _vector(seen: Seen) -> str | None:
    found = [
        name
        for name, array in seen.outputs.items()
        if array.dtype.kind == "f" and array.ndim and array.size == max(array.shape)
    ]
    return found[0] if len(found) == 1 and len(seen.outputs) == 1 else None


def _activation(seen: Seen, name: str) -> tuple[str, str]:
    """Return what is still missing to make scores of an output, and how that is known."""
    maker = seen.maker(name)
    if maker is not None and maker.op_type in {"Softmax", "Sigmoid"}:
        return "none", f"the graph ends in {maker.op_type}"
    values = seen.outputs[name].astype(np.float64)
    if values.min() >= -_SLACK and abs(values.sum() - 1) <= _SLACK:
        return "none", "its values sum to 1"
    return "softmax", "its values are no scores yet"


def _is_map(array: Array, seen: Seen) -> bool:
    if array.ndim not in (_PLANE, _PLANES):
        return False
    rows, columns = _extent(array, seen)
    if not _SMALLEST <= rows <= seen.height or not _SMALLEST <= columns <= seen.width:
        return False
    # Rounding aside, a map shrinks both sides alike.
    return abs(rows / seen.height - columns / seen.width) <= 1 / min(rows, columns)


def _extent(array: Array, seen: Seen) -> tuple[int, int]:
    if array.ndim == _PLANES and _channels_last(array, seen):
        return array.shape[0], array.shape[1]
    return array.shape[-2], array.shape[-1]


def _channels_last(array: Array, seen: Seen) -> bool:
    first = abs(array.shape[1] / seen.height - array.shape[2] / seen.width)
    last = abs(array.shape[0] / seen.height - array.shape[1] / seen.width)
    return bool(last < first)


def _are_shares(values: Array) -> bool:
    return bool(values.min() >= -_SLACK and values.max() <= 1 + _SLACK)


def _single(array: Array) -> bool:
    return array.ndim == _PLANE or 1 in (array.shape[0], array.shape[-1])
