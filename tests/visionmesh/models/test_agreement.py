from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from visionmesh.contracts import Answer, Box, ClassScore, Detection, Heatmap, Region
from visionmesh.models.agreement import Seen, Tally, likeness, pairs
from visionmesh.rle import encode


def classes(*labels: str) -> Answer:
    return Answer(classes=tuple(ClassScore(label=label, score=0.5) for label in labels))


def box(x: float, y: float, size: float = 10, *, label: str = "a", score: float = 0.5) -> Detection:
    return Detection(label=label, score=score, box=(x, y, x + size, y + size))


def found(*boxes: Detection) -> Answer:
    return Answer(detections=boxes)


def heat(values: NDArray[np.uint8], low: float, high: float) -> Answer:
    _, png = cv2.imencode(".png", values)
    height, width = values.shape
    heatmap = Heatmap(sha256="", width=width, height=height, low=low, high=high, png=png.tobytes())
    return Answer(heatmap=heatmap)


def seen(answer: Answer | None, *values: float, wider: Answer | None = None) -> Seen:
    return Seen({"scores": np.array([values], np.float32)}, answer, wider or answer)


def test_only_the_first_class_counts() -> None:
    assert likeness(classes("a", "b"), classes("a", "c")) == (1, 1)
    assert likeness(classes("a", "b"), classes("b", "a")) == (0, 1)


def test_a_box_has_one_partner_of_its_label() -> None:
    two = (box(0, 0), box(1, 0))
    assert pairs(two, (box(0, 1),)) == 1
    assert pairs(two, (box(0, 1, label="b"),)) == 0
    assert pairs(two, ()) == pairs((), two) == 0


@pytest.mark.parametrize(("shift", "same"), [(3.3, 1), (3.4, 0)])
def test_partners_overlap_by_half_of_what_both_cover(shift: float, same: int) -> None:
    # Squares of 10: (10 - s) / (10 + s) is 1/2 at s = 10/3.
    assert pairs((box(0, 0),), (box(shift, 0),)) == same


def test_boxes_are_counted_on_both_sides() -> None:
    assert likeness(found(box(0, 0), box(50, 50)), found(box(0, 0))) == (2, 3)
    assert likeness(found(), found()) == (0, 0)


def test_pairs_are_those_that_a_plain_search_finds() -> None:
    random = np.random.default_rng(5)

    def overlap(one: Box, other: Box) -> float:
        width = min(one[2], other[2]) - max(one[0], other[0])
        height = min(one[3], other[3]) - max(one[1], other[1])
        common = max(width, 0) * max(height, 0)
        areas = sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (one, other))
        return common / (areas - common)

    for _ in range(20):
        # Far apart on one side, moved a little on the other: every partner is unmistakable.
        ours = tuple(box(40 * n, 0, 20, label=str(n % 2)) for n in range(6))
        moved = [(40 * n + random.uniform(-12, 12), random.uniform(-8, 8)) for n in range(6)]
        theirs = tuple(box(x, y, 20, label=str(n % 2)) for n, (x, y) in enumerate(moved))
        plain = sum(overlap(a.box, b.box) >= 0.5 for a, b in zip(ours, theirs, strict=True))
        assert pairs(ours, theirs[::-1]) == plain


def test_regions_count_by_their_pixels() -> None:
    left = np.zeros((4, 6), bool)
    left[:, :3] = True
    upper = np.zeros((4, 6), bool)
    upper[:2] = True

    def told(mask: NDArray[np.bool_]) -> Answer:
        return Answer(regions=(Region(label="sky", share=0.5, mask=encode(mask)),))

    assert likeness(told(left), told(left)) == (24, 24)
    assert likeness(told(left), told(upper)) == (12, 24)


def test_embeddings_count_by_their_angle() -> None:
    one = Answer(embedding=(1.0, 0.0))
    assert likeness(one, Answer(embedding=(2.0, 0.0)))[0] == pytest.approx(1)
    assert likeness(one, Answer(embedding=(1.0, 1.0)))[0] == pytest.approx(0.5**0.5)
    assert likeness(one, Answer(embedding=(0.0, 1.0)))[0] == 0
    assert likeness(one, Answer(embedding=(1.0, 0.0, 0.0)))[0] == 0


def masked(rows: slice) -> Detection:
    mask = np.zeros((10, 10), bool)
    mask[rows] = True
    return box(0, 0).model_copy(update={"mask": encode(mask)})


@pytest.mark.parametrize(("rows", "same"), [(slice(0, 6), 1), (slice(2, 8), 1), (slice(6, 10), 0)])
def test_objects_in_the_same_box_are_the_same_where_their_masks_are(rows: slice, same: int) -> None:
    # Of six rows, four and none are common with the first six; together they have 6, 8 and 10.
    assert pairs((masked(slice(0, 6)),), (masked(rows),)) == same
    assert pairs((masked(rows),), (box(0, 0),)) == 1


def test_a_verdict_with_another_heat_map_is_another_answer() -> None:
    grey = np.full((2, 3), 102, np.uint8)
    good, worse = (
        classes("good", "flawed").model_copy(update={"heatmap": heat(values, 0, 10).heatmap})
        for values in (grey, grey + 51)
    )
    assert likeness(good, good) == (1, 1)
    assert likeness(good, worse)[0] == pytest.approx(0.8)
    told = Answer.model_validate(good.model_dump())
    assert likeness(told, told) == (1, 1), "the PNG stays behind"


def test_heat_maps_count_by_their_values_not_their_greys() -> None:
    grey = np.array([[0, 255], [0, 255]], np.uint8)
    assert likeness(heat(grey, 0, 10), heat(grey, 0, 10))[0] == 1
    assert likeness(heat(grey, 0, 10), heat(grey, 0, 8))[0] == pytest.approx(0.9)
    assert likeness(heat(grey, 0, 10), heat(grey[:1], 0, 10))[0] == 0


def test_a_tally_tells_errors_and_equal_answers() -> None:
    tally = Tally()
    tally.add(seen(classes("a"), 1, -4), seen(classes("a"), 1.5, -4))
    tally.add(seen(classes("a"), 2, 2), seen(classes("b"), 2, 0))
    result = tally.result()
    assert (result.images, result.answers, result.largest) == (2, 0.5, 4)
    assert (result.max_error, result.mean_error) == (2, 2.5 / 4)
    assert (result.broken, result.unanswered) == (0, 0)


def test_values_that_are_no_numbers_break_an_image() -> None:
    tally = Tally()
    tally.add(seen(classes("a"), 1, 2), seen(classes("a"), 1, float("nan")))
    tally.add(seen(classes("a"), 1, 2), seen(None, 1, 2))
    tally.add(seen(None, 1, float("inf")), seen(classes("a"), 1, float("inf")))
    result = tally.result()
    assert (result.broken, result.unanswered, result.answers) == (2, 1, 0)
    assert result.max_error == 0


def test_a_box_at_the_threshold_is_not_lost() -> None:
    sure, unsure = box(0, 0), box(50, 50, score=0.26)
    tally = Tally()
    tally.add(seen(found(sure, unsure), 0), seen(found(sure), 0, wider=found(sure, box(50, 50))))
    assert tally.result().answers == 1
