from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.postprocess.nms import suppress, upright
from services.postprocess.rotated import polygon, probabilistic, vertices
from tests.services.postprocess import reference_rotated as reference

# Small whole numbers and eighths of a turn: sides that touch or coincide are frequent.
_SHAPE = st.tuples(
    st.integers(0, 8),
    st.integers(0, 8),
    st.integers(1, 8),
    st.integers(1, 8),
    st.one_of(st.integers(-8, 8).map(lambda n: n * math.pi / 4), st.floats(-4, 4)),
)


def pair(one: reference.Shape, other: reference.Shape) -> tuple[np.ndarray, np.ndarray]:
    return np.array(one, np.float64)[:, None], np.array(other, np.float64)[:, None]


@settings(deadline=None, max_examples=150)
@given(_SHAPE, _SHAPE)
def test_rectangles_share_what_is_left_when_one_is_cut_by_the_other(
    one: reference.Shape, other: reference.Shape
) -> None:
    shared, union = polygon(*pair(one, other))
    wanted = reference.shared(one, other)
    assert shared[0] == pytest.approx(wanted, abs=1e-9)
    assert union[0] == pytest.approx(one[2] * one[3] + other[2] * other[3] - wanted)


@settings(deadline=None, max_examples=60)
@given(_SHAPE, _SHAPE)
def test_rectangles_that_are_not_turned_are_upright_boxes(
    one: reference.Shape, other: reference.Shape
) -> None:
    straight, boxes = [], []
    for x, y, width, height, _ in (one, other):
        straight.append((x, y, width, height, 0.0))
        boxes.append((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    wanted = upright(*pair(boxes[0], boxes[1]))
    for got, value in zip(polygon(*pair(straight[0], straight[1])), wanted, strict=True):
        assert got[0] == pytest.approx(value[0], abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(_SHAPE, _SHAPE)
def test_distributions_agree_as_the_paper_says(
    one: reference.Shape, other: reference.Shape
) -> None:
    agreement, whole = probabilistic(*pair(one, other))
    # Near 1 the square root makes much of rounding.
    assert agreement[0] / whole[0] == pytest.approx(reference.probabilistic(one, other), abs=1e-7)


def test_thin_boxes_crosswise_share_little_and_lengthwise_much() -> None:
    one, across, along = (5, 5, 8, 1, 0.5), (5, 5, 8, 1, 0.5 + math.pi / 2), (5, 5, 8, 1, 0.6)
    for overlap in (polygon, probabilistic):
        little, all_of_it = overlap(*pair(one, across))
        much, whole = overlap(*pair(one, along))
        assert little[0] / all_of_it[0] < 0.25
        assert much[0] / whole[0] > 0.5


@pytest.mark.parametrize("overlap", [polygon, probabilistic])
def test_boxes_without_area_cover_nothing(overlap: object) -> None:
    shapes = np.array([[5, 5, 0, 0, 0], [5, 5, 0, 3, 0.5], [5, 5, 0, 3, 0.5], [5, 5, 3, 3, 0]])
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    kept = suppress(shapes, scores, np.zeros(4), iou=0.0, overlap=overlap)  # type: ignore[arg-type]  # one of both
    assert kept.tolist() == [0, 1, 2, 3]


@given(_SHAPE)
def test_corners_go_clockwise_from_the_upper_left_one(shape: reference.Shape) -> None:
    found = vertices(np.array(shape, np.float64))
    np.testing.assert_allclose(found, reference.corners(shape), atol=1e-9)
    assert reference.area([(x, y) for x, y in found.tolist()]) == pytest.approx(shape[2] * shape[3])
