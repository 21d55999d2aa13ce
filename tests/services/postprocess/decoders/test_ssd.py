from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from services.postprocess.decoders import load_decoder
from services.postprocess.decoders.protocol import Array, Arrays
from tests.services.postprocess import reference
from tests.services.postprocess.reference import Found, detector
from visionmesh.contracts import Params, Placement
from visionmesh.errors import Code, ConfigurationError, Reject

SIZE = (64, 48)
SPEC = detector("ssd", 3, size=SIZE)
PLACEMENT = Placement(scale_x=0.5, scale_y=0.25, offset_x=3, offset_y=-5)
IDENTITY = Placement(scale_x=1, scale_y=1, offset_x=0, offset_y=0)
GRIDS = [
    {"stride": 16, "sizes": [[8, 8], [16, 8]]},
    {"stride": 32, "cells": [1, 2], "sizes": [[32, 24]]},
]
"""4 x 3 cells with two boxes each, and 1 x 2 with one: 26."""


def priors() -> list[tuple[float, float, float, float]]:
    """Return the boxes of `GRIDS` in input pixels as the paper tells them: map by map, row by row,
    cell by cell, shape by shape."""
    found: list[tuple[float, float, float, float]] = []
    for stride, columns, rows, sizes in ((16, 4, 3, [(8, 8), (16, 8)]), (32, 1, 2, [(32, 24)])):
        for row in range(rows):
            for column in range(columns):
                for width, height in sizes:
                    found.append(((column + 0.5) * stride, (row + 0.5) * stride, width, height))
    return found


def offsets_to_box(
    offsets: list[float], prior: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    tx, ty, tw, th = offsets
    x, y, width, height = prior
    return reference.sides(
        x + tx * 0.1 * width,
        y + ty * 0.1 * height,
        width * math.exp(tw * 0.2),
        height * math.exp(th * 0.2),
    )


def plain(
    scores: list[list[float]], boxes: list[tuple[float, float, float, float]], least: float
) -> list[Found]:
    """Each class of a box that is sure enough is a candidate."""
    return [
        Found(score, label, box)
        for row, box in zip(scores, boxes, strict=True)
        for label, score in enumerate(row)
        if score >= least
    ]


def told(
    outputs: Arrays, confidence: float = 0.25, iou: float = 0.45, **parameters: Any
) -> list[Found]:
    decoder = load_decoder(detector("ssd", 3, size=SIZE, **parameters))
    params = Params(confidence=confidence, iou=iou)
    return reference.found(decoder.answer(decoder.reduce(outputs), params, PLACEMENT, 100, 120))


def wanted(found: list[Found], iou: float) -> list[Found]:
    answer = reference.detections(found, iou=iou, placement=PLACEMENT, width=100, height=120)
    assert len(answer) > 3
    assert not reference.slivers(answer)
    return answer


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("confidence", [0.05, 0.4])
@pytest.mark.parametrize("iou", [0.2, 0.6])
@pytest.mark.parametrize("background", [None, "first", "last"])
def test_corners_are_answered_as_the_reference_does(
    seed: int, confidence: float, iou: float, background: str | None
) -> None:
    random = np.random.default_rng(seed)
    corner = random.uniform(-5, 40, (40, 2))
    boxes = np.concatenate((corner, corner + random.uniform(3, 24, (40, 2))), axis=1)
    boxes = boxes.astype(np.float32)
    # Eighths make equal scores, within a box and between boxes.
    scores = (random.integers(0, 9, (40, 3)) / 8).astype(np.float32)
    columns = {"first": (1, 0), "last": (0, 1), None: (0, 0)}[background]
    outputs: Arrays = {
        "boxes": boxes / np.array(SIZE * 2, np.float32),
        "scores": np.pad(scores, ((0, 0), columns), constant_values=1),
    }
    more = {"background": background} if background == "last" else {}
    found = plain(scores.tolist(), [tuple(box) for box in boxes.tolist()], confidence)
    reference.agree(told(outputs, confidence, iou, **more), wanted(found, iou))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("order", ["xy", "yx"])
def test_offsets_are_answered_as_the_reference_does(seed: int, activation: str, order: str) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(26, 4)).astype(np.float32)
    offsets = random.normal(size=(26, 4)).astype(np.float32)
    given = offsets if order == "xy" else offsets[:, (1, 0, 3, 2)]
    activate = reference.softmax if activation == "softmax" else each_sigmoid
    scores = [activate(row)[1:] for row in logits.tolist()]
    boxes = [
        offsets_to_box(row, prior) for row, prior in zip(offsets.tolist(), priors(), strict=True)
    ]
    got = told(
        {"classes": logits, "locations": given},
        activation=activation,
        order=order,
        encoding="offsets",
        priors=GRIDS,
        normalized=bool(seed % 2),
    )
    reference.agree(got, wanted(plain(scores, boxes, 0.25), 0.45))


def each_sigmoid(values: list[float]) -> list[float]:
    return [reference.sigmoid(value) for value in values]


def test_priors_may_be_given_one_by_one() -> None:
    random = np.random.default_rng(1)
    outputs = {
        "scores": random.random((26, 3), np.float32),
        "boxes": random.normal(size=(26, 4)).astype(np.float32),
    }
    parts = [[x / 64, y / 48, width / 64, height / 48] for x, y, width, height in priors()]
    assert told(outputs, encoding="offsets", priors=parts) == told(
        outputs, encoding="offsets", priors=GRIDS
    )


def test_boxes_may_be_centres_and_pixels_with_a_dimension_too_many() -> None:
    outputs = {
        "boxes": np.array([[[10, 20, 4, 8]]], np.float32),
        "confs": np.array([[0, 0.5, 0]], np.float32),
    }
    decoder = load_decoder(detector("ssd", 3, size=SIZE, encoding="centers", normalized=False))
    answer = decoder.answer(decoder.reduce(outputs), Params(), IDENTITY, *SIZE)
    assert reference.found(answer) == [Found(0.5, 1, (8.0, 16.0, 12.0, 24.0))]


def test_four_classes_are_not_taken_for_boxes() -> None:
    boxes = np.array([[0.25, 0.25, 0.5, 0.5]], np.float32)
    scores = np.array([[0.0, 0.0, 0.5, 0.0]], np.float32)
    decoder = load_decoder(detector("ssd", 4, size=SIZE))
    for outputs in (
        {"pred_scores": scores, "pred_boxes": boxes},
        {"b_loc": boxes, "b_conf": scores},
    ):
        answer = decoder.answer(decoder.reduce(outputs), Params(), IDENTITY, *SIZE)
        assert reference.found(answer) == [Found(0.5, 2, (16.0, 12.0, 32.0, 24.0))]
    with pytest.raises(Reject, match=r"let output\.boxes name"):
        decoder.reduce({"a": scores, "b": boxes})
    named = load_decoder(detector("ssd", 4, size=SIZE, boxes="b", scores="a"))
    assert len(named.reduce({"a": scores, "b": boxes})["scores"]) == 1


def test_nothing_found_is_an_answer_too() -> None:
    assert told({"boxes": np.zeros((0, 4)), "scores": np.zeros((0, 4))}) == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("name", "column"), [("boxes", 0), ("boxes", 3), ("scores", 0), ("scores", 3)]
)
@pytest.mark.parametrize("activation", ["softmax", "none"])
def test_what_is_not_finite_is_refused(
    name: str, column: int, value: float, activation: str
) -> None:
    outputs = {"boxes": np.full((9, 4), 0.5), "scores": np.full((9, 4), 0.25)}
    outputs[name][5, column] = value
    decoder = load_decoder(detector("ssd", 3, size=SIZE, activation=activation))
    with pytest.raises(Reject) as caught:
        decoder.reduce(outputs)
    assert caught.value.code is Code.MODEL_FAILED


def test_a_size_beyond_all_numbers_is_refused() -> None:
    outputs = {"boxes": np.full((26, 4), 900, np.float32), "scores": np.full((26, 4), 0.25)}
    decoder = load_decoder(detector("ssd", 3, size=SIZE, encoding="offsets", priors=GRIDS))
    with pytest.raises(Reject, match="finite"):
        decoder.reduce(outputs)


@pytest.mark.parametrize(
    ("boxes", "scores"),
    [((9, 4), (8, 4)), ((9, 4), (9, 5)), ((9, 4), (9, 2)), ((9, 5), (9, 4)), ((9, 4), (9,))],
)
def test_outputs_that_do_not_fit_are_refused(
    boxes: tuple[int, ...], scores: tuple[int, ...]
) -> None:
    outputs: dict[str, Array] = {"boxes": np.zeros(boxes), "scores": np.zeros(scores)}
    with pytest.raises(Reject) as caught:
        load_decoder(SPEC).reduce(outputs)
    assert caught.value.code is Code.MODEL_INVALID


def test_as_many_boxes_as_priors_are_wanted() -> None:
    decoder = load_decoder(detector("ssd", 3, size=SIZE, encoding="offsets", priors=GRIDS))
    with pytest.raises(Reject, match="26 priors for 9 boxes") as caught:
        decoder.reduce({"boxes": np.zeros((9, 4)), "scores": np.zeros((9, 4))})
    assert caught.value.code is Code.MODEL_INVALID


@pytest.mark.parametrize(
    ("classes", "parameters", "complaint"),
    [
        (3, {"encoding": "offsets"}, "priors"),
        (3, {"priors": GRIDS}, "priors"),
        (3, {"encoding": "offsets", "priors": [[0, 0, 0, 1]]}, "priors"),
        (0, {}, "background"),
    ],
)
def test_a_description_that_says_too_little_is_refused(
    classes: int, parameters: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        load_decoder(detector("ssd", classes, size=SIZE, **parameters))
