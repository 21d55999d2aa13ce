"""Detectors with a list of boxes: suppressed in the graph, of prior boxes, or of queries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from visionmesh.models.importing.grids import is_grid
from visionmesh.models.importing.seen import Array, Guess, Seen

_BOX = 4
_FIELDS = 6
"""Of a row with everything: a box, its score and its class."""
_MATRIX, _VOLUME = 2, 3
_QUERIES = 1000
"""Transformers have fewer queries, SSD and its kin more prior boxes."""
_UNIT = 1.5
"""Boxes as parts of the input end about here, and boxes in pixels far above."""
_SLACK = 1e-3
_COCO = (80, 90, 91)
"""Classes of the networks that are trained with a sigmoid for each."""

_PRIORS = "the boxes have no order of corners, so they are offsets from prior boxes"

_HINTS: Mapping[str, tuple[str, ...]] = {
    "boxes": ("box", "loc"),
    "scores": ("score", "conf"),
    "classes": ("class", "label", "cls"),
    "count": ("num",),
}


def end2end(seen: Seen) -> Guess | None:
    """(K, 6): x1, y1, x2, y2, score, class, after suppression."""
    name, output = _only_rows(seen)
    if name is None or output.shape[1] != _FIELDS or not _ends_in_classes(output):
        return None
    why = f"{name} is {output.shape}"
    return Guess(decoder="end2end", uses=(name,), why=why, parameters=_sized(output[:, :_BOX]))


def end2end_columns(seen: Seen) -> Guess | None:
    """(K, 4), (K,), (K,): boxes, scores and classes, and maybe a count, after suppression."""
    named = {role: _hinted(seen, role) for role in _HINTS}
    boxes, scores, classes = (named[role] for role in ("boxes", "scores", "classes"))
    if boxes is None or scores is None or classes is None:
        return None
    if seen.outputs[boxes].shape[1:] != (_BOX,):
        return None
    if seen.outputs[scores].ndim != 1 or seen.outputs[classes].ndim != 1:
        return None
    count = named["count"]
    own: dict[str, Any] = {role: name for role, name in named.items() if name is not None}
    # TensorFlow's detection models name their outputs so, and count classes from 1.
    tensorflow = {"order": "yxyx", "first_class": 1} if boxes.startswith("detection_") else {}
    own |= _sized(seen.outputs[boxes])
    uses = (boxes, scores, classes) if count is None else (boxes, scores, classes, count)
    return Guess(
        decoder="end2end",
        uses=uses,
        why="boxes, scores and classes are outputs",
        parameters=own,
        assumed=tensorflow,
    )


def ssd(seen: Seen) -> Guess | None:
    """(A, 4) and (A, C): prior boxes and the scores of their classes."""
    pair = _pair(seen)
    if pair is None or _is_transformer(pair):
        return None
    own: dict[str, Any] = {"boxes": pair.box_name, "scores": pair.score_name}
    encoding = _encoding(pair.boxes)
    own |= {"encoding": encoding, "normalized": bool(_sized(pair.boxes))}
    summed = bool(np.allclose(pair.scores.sum(axis=1), 1, atol=_SLACK))
    own["activation"] = "none" if _are_scores(pair.scores) else "softmax"
    columns = pair.scores.shape[1]
    own["background"] = _background(columns, seen.labels, summed or own["activation"] == "softmax")
    return Guess(
        decoder="ssd",
        uses=(pair.box_name, pair.score_name),
        classes=columns - (own["background"] != "none"),
        why=f"{pair.box_name} and {pair.score_name} are boxes and scores",
        assumed=own,
        wanted={"priors": _PRIORS} if encoding == "offsets" else {},
    )


def detr(seen: Seen) -> Guess | None:
    """(Q, 4) and (Q, C), or (Q, 4 + C): queries, each with a box and classes."""
    pair = _pair(seen)
    if pair is None:
        return _joined_queries(seen)
    if not _is_transformer(pair):
        return None
    columns = pair.scores.shape[1]
    if _are_scores(pair.scores):
        activation = "none"
    elif seen.labels in (columns, columns - 1):
        activation = "sigmoid" if seen.labels == columns else "softmax"
    else:
        activation = "sigmoid" if columns in _COCO else "softmax"
    own: dict[str, Any] = {
        "boxes": pair.box_name,
        "scores": pair.score_name,
        "activation": activation,
    }
    own |= {} if _sized(pair.boxes) else {"normalized": False}
    why = (
        f"{pair.box_name} and {pair.score_name} are boxes and classes of {len(pair.boxes)} queries"
    )
    return Guess(
        decoder="detr",
        uses=(pair.box_name, pair.score_name),
        classes=columns - (activation == "softmax"),
        why=why,
        assumed=own,
    )


class _Pair(NamedTuple):
    box_name: str
    boxes: Array
    score_name: str
    scores: Array


def _only_rows(seen: Seen) -> tuple[str | None, Array]:
    for name, array in seen.outputs.items():
        is_matrix = array.ndim == _MATRIX and array.dtype.kind == "f"
        if (
            len(seen.outputs) == 1
            and is_matrix
            and not any(is_grid(length, seen) for length in array.shape)
        ):
            return name, array
    return None, np.empty((0, 0))


def _ends_in_classes(output: Array) -> bool:
    """Say whether the last values are whole numbers and those before them scores."""
    scores, classes = output[:, _BOX], output[:, _BOX + 1]
    return bool((classes == np.rint(classes)).all()) and _are_scores(scores)


def _joined_queries(seen: Seen) -> Guess | None:
    name, output = _only_rows(seen)
    if name is None or output.shape[1] <= _BOX or len(output) > _QUERIES:
        return None
    if output.shape[1] == _FIELDS and _ends_in_classes(output):
        return None
    scored = _are_scores(output[:, _BOX:])
    own: dict[str, Any] = {"activation": "none" if scored else "sigmoid"}
    own |= {} if _sized(output[:, :_BOX]) else {"normalized": False}
    why = f"{name} is {output.shape}, a box and classes for each query"
    return Guess(
        decoder="detr",
        uses=(name,),
        classes=output.shape[1] - _BOX,
        why=why,
        assumed=own,
    )


def _hinted(seen: Seen, role: str) -> str | None:
    found = [name for name in seen.outputs if any(hint in name.lower() for hint in _HINTS[role])]
    if role == "boxes":
        return found[0] if len(found) == 1 else None
    columns = [name for name in found if seen.outputs[name].ndim <= 1]
    return columns[0] if len(columns) == 1 else None


def _pair(seen: Seen) -> _Pair | None:
    """Return boxes and scores with as many rows, if there is one pair of them."""
    found = list(_pairs(seen))
    return found[0] if len(found) == 1 else None


def _pairs(seen: Seen) -> Iterator[_Pair]:
    for box_name, raw in seen.outputs.items():
        boxes = raw[:, 0] if raw.ndim == _VOLUME and raw.shape[1] == 1 else raw
        if boxes.ndim != _MATRIX or boxes.shape[1] != _BOX:
            continue
        for name, scores in seen.outputs.items():
            if name != box_name and scores.ndim == _MATRIX and len(scores) == len(boxes):
                hinted = any(hint in box_name.lower() for hint in _HINTS["boxes"])
                if scores.shape[1] != _BOX or hinted:
                    yield _Pair(box_name, boxes, name, scores)


def _is_transformer(pair: _Pair) -> bool:
    names = f"{pair.box_name} {pair.score_name}".lower()
    if "logit" in names or "pred_boxes" in names:
        return len(pair.boxes) <= _QUERIES
    summed = bool(np.allclose(pair.scores.sum(axis=1), 1, atol=_SLACK))
    return len(pair.boxes) <= _QUERIES and not summed


def _are_scores(values: Array) -> bool:
    return bool(values.min(initial=0) >= -_SLACK and values.max(initial=0) <= 1 + _SLACK)


def _sized(boxes: Array) -> dict[str, Any]:
    """Return the parameter that says that boxes are parts of the input, if they are."""
    largest = float(np.abs(boxes).max(initial=0))
    return {"normalized": True} if 0 < largest <= _UNIT else {}


def _encoding(boxes: Array) -> str:
    if (boxes[:, 2:] >= boxes[:, :2]).mean() > 1 - _SLACK:
        return "corners"
    return "centers" if (boxes[:, 2:] >= 0).all() else "offsets"


def _background(columns: int, labels: int | None, exclusive: bool) -> str:
    if labels is not None:
        return "first" if columns == labels + 1 else "none"
    return "first" if exclusive and columns > 1 else "none"
