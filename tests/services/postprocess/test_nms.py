from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.postprocess.nms import soften, suppress
from tests.services.postprocess import reference

# Coordinates, scores and thresholds are small multiples of powers of two, so that ties of scores
# and overlaps that equal the threshold are frequent, and all arithmetic is exact.
_COORDINATE = st.integers(0, 12)
_BOX = st.tuples(_COORDINATE, _COORDINATE, _COORDINATE, _COORDINATE).map(
    lambda sides: (
        min(sides[0], sides[2]),
        min(sides[1], sides[3]),
        max(sides[0], sides[2]),
        max(sides[1], sides[3]),
    )
)
_CANDIDATE = st.tuples(_BOX, st.integers(1, 8).map(lambda n: n / 8), st.integers(0, 2))


@given(st.lists(_CANDIDATE, max_size=40), st.integers(0, 16).map(lambda n: n / 16))
def test_keeps_what_greedy_suppression_keeps_ties_included(
    candidates: list[tuple[tuple[int, int, int, int], float, int]], iou: float
) -> None:
    boxes = [box for box, _, _ in candidates]
    scores = [score for _, score, _ in candidates]
    classes = [label for _, _, label in candidates]
    kept = suppress(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(classes, np.uint16),
        iou=iou,
    )
    assert kept.tolist() == reference.suppress(boxes, scores, classes, iou)


@pytest.mark.parametrize("count", [63, 64, 65, 129, 400])
def test_images_with_many_boxes_are_no_different(count: int) -> None:
    random = np.random.default_rng(count)
    corner = random.uniform(0, 100, (count, 2))
    boxes = np.concatenate((corner, corner + random.uniform(5, 90, (count, 2))), axis=1)
    boxes = boxes.astype(np.float32)
    scores = random.random(count, np.float32)
    classes = random.integers(0, 3, count)
    kept = suppress(boxes, scores, classes, iou=0.45)
    assert len(kept) < count
    assert kept.tolist() == reference.suppress(
        boxes.tolist(), scores.tolist(), classes.tolist(), 0.45
    )


def test_a_box_that_was_itself_suppressed_suppresses_nothing() -> None:
    # Each overlaps the next by a half; without the second, the third stands again, and so on.
    boxes = np.array([[start, 0, start + 3, 1] for start in range(100)], np.float32)
    kept = suppress(boxes, np.linspace(1, 0.5, 100), np.zeros(100), iou=0.4)
    assert kept.tolist() == list(range(0, 100, 2))


def test_boxes_of_different_classes_leave_each_other_alone() -> None:
    boxes = np.array([[0, 0, 9, 9]] * 3, np.float32)
    kept = suppress(boxes, np.array([0.5, 0.9, 0.7]), np.array([0, 1, 0]), iou=0.5)
    assert kept.tolist() == [1, 2]


@given(
    st.lists(_CANDIDATE, max_size=30),
    st.integers(0, 8).map(lambda n: n / 8),
    st.sampled_from([0.1, 0.5, 2.0]),
)
def test_softens_as_the_paper_does_ties_included(
    candidates: list[tuple[tuple[int, int, int, int], float, int]], least: float, sigma: float
) -> None:
    boxes = [box for box, _, _ in candidates]
    scores = [score for _, score, _ in candidates]
    classes = [label for _, _, label in candidates]
    kept, softened = soften(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(classes, np.uint16),
        least=np.full(len(boxes), least, np.float32),
        sigma=sigma,
    )
    wanted = reference.soften(boxes, scores, classes, least=least, sigma=sigma)
    assert kept.tolist() == [index for index, _ in wanted]
    assert softened.tolist() == pytest.approx([score for _, score in wanted])


def test_a_softened_score_is_told_by_the_gaussian_of_the_overlap() -> None:
    # The boxes share a third of their union; the third box is alone.
    boxes = np.array([[0, 0, 4, 1], [2, 0, 6, 1], [9, 0, 10, 1]], np.float32)
    scores = np.array([0.9, 0.8, 0.7])
    kept, softened = soften(boxes, scores, np.zeros(3), least=np.zeros(3), sigma=0.5)
    assert kept.tolist() == [0, 2, 1]
    assert softened.tolist() == pytest.approx([0.9, 0.7, 0.8 * math.exp(-2 / 9)])


def test_a_box_beneath_others_loses_to_each_of_them() -> None:
    boxes = np.array([[0, 0, 9, 9]] * 1000, np.float32)
    scores = np.linspace(1, 0.5, 1000)
    kept, softened = soften(boxes, scores, np.zeros(1000), least=np.full(1000, 0.01), sigma=0.5)
    # Each that goes before takes its share of a box that lies exactly beneath.
    assert softened.tolist() == pytest.approx(scores[kept] * np.exp(-2.0 * np.arange(len(kept))))


def test_boxes_with_negative_sides_cover_nothing() -> None:
    boxes = np.array([[5, 0, 0, 9], [1, 1, 3, 3]], np.float32)
    assert suppress(boxes, np.array([0.9, 0.5]), np.zeros(2), iou=0.5).tolist() == [0, 1]
