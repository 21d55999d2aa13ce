"""Average precision, checked by hand and against a plain reading of its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from visiontune.evaluation import Found, Marked, average_precisions, overlaps

HERE, THERE, AWAY = [0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60]


def marked(*boxes: list[int], label: int = 0) -> Marked:
    return Marked(np.array(boxes, float).reshape(-1, 4), np.full(len(boxes), label, np.intp))


def found(*boxes: list[int], scores: list[float], label: int = 0) -> Found:
    corners = np.array(boxes, float).reshape(-1, 4)
    return Found(corners, np.full(len(boxes), label, np.intp), np.array(scores))


def precision(guess: Found, truth: Marked, *, iou: float = 0.5) -> float:
    return float(average_precisions([guess], [truth], classes=1, iou=iou)[0])


def test_overlaps_by_hand() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [3, 3, 3, 8]], float)
    expected = np.array([[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 0]])
    np.testing.assert_allclose(overlaps(boxes, boxes), expected)


def test_all_found_and_nothing_else_is_1() -> None:
    assert precision(found(HERE, THERE, scores=[0.9, 0.3]), marked(HERE, THERE)) == 1


def test_nothing_found_is_0_and_nothing_to_find_is_no_number() -> None:
    assert precision(found(scores=[]), marked(HERE)) == 0
    assert np.isnan(precision(found(HERE, scores=[0.5]), marked()))


def test_a_false_alarm_costs_only_what_is_found_after_it() -> None:
    guess = found(HERE, AWAY, THERE, scores=[0.9, 0.8, 0.7])
    # Recall 1/2 at precision 1, recall 1 at precision 2/3.
    assert precision(guess, marked(HERE, THERE)) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_precision_at_a_recall_is_the_best_at_that_recall_or_more() -> None:
    guess = found(AWAY, HERE, THERE, scores=[0.9, 0.8, 0.7])
    # Precision 1/2 at recall 1/2, but 2/3 can be had there by going on.
    assert precision(guess, marked(HERE, THERE)) == pytest.approx(2 / 3)


def test_a_box_found_twice_counts_once_for_the_surer() -> None:
    guess = found(HERE, HERE, THERE, scores=[0.5, 0.9, 0.1])
    assert precision(guess, marked(HERE, THERE)) == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_the_overlap_must_be_greater_than_asked_for() -> None:
    guess, truth = found([0, 0, 10, 5], scores=[0.9]), marked(HERE)
    assert precision(guess, truth, iou=0.5) == 0
    assert precision(guess, truth, iou=0.49) == 1


def test_classes_and_images_are_kept_apart() -> None:
    guesses = [found(HERE, scores=[0.9], label=1), found(HERE, scores=[0.8], label=0)]
    truths = [marked(HERE, label=0), marked(HERE, label=0)]
    precisions = average_precisions(guesses, truths, classes=2, iou=0.5)
    assert precisions[0] == 0.5
    assert np.isnan(precisions[1])


def test_as_many_images_are_needed_on_both_sides() -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        average_precisions([found(scores=[])], [], classes=1, iou=0.5)


def plainly(founds: list[Found], truths: list[Marked], label: int, iou: float) -> float:
    """Average precision of one class as PASCAL VOC's text puts it, one detection after another."""
    total = sum(int((t.labels == label).sum()) for t in truths)
    if total == 0:
        return float("nan")
    queue = sorted(
        (-score, image, place)
        for image, one in enumerate(founds)
        for place, (score, kind) in enumerate(zip(one.scores, one.labels, strict=True))
        if kind == label
    )
    taken: set[tuple[int, int]] = set()
    curve, hits = [], 0
    for rank, (_, image, place) in enumerate(queue, start=1):
        best, which = iou, None
        for index, box in enumerate(truths[image].boxes):
            shared = by_hand(founds[image].boxes[place], box)
            if truths[image].labels[index] == label and shared > best:
                best, which = shared, index
        if which is not None and (image, which) not in taken:
            taken.add((image, which))
            hits += 1
        curve.append((hits / total, hits / rank))
    steps = sorted({recall for recall, _ in curve if recall > 0})
    area, before = 0.0, 0.0
    for step in steps:
        area += (step - before) * max(p for recall, p in curve if recall >= step)
        before = step
    return area


def by_hand(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return float(width * height / (both - width * height))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), iou=st.sampled_from([0.2, 0.33, 0.5]))
def test_it_equals_the_definition_read_plainly(seed: int, iou: float) -> None:
    rng = np.random.default_rng(seed)

    def boxes(count: int) -> NDArray[np.float64]:
        low = rng.uniform(0, 30, (count, 2))
        return np.concatenate([low, low + rng.uniform(5, 30, (count, 2))], axis=1)

    truths, founds = [], []
    for _ in range(3):
        count = int(rng.integers(0, 8))
        truths.append(Marked(boxes(count), rng.integers(0, 3, count)))
        near = truths[-1].boxes + rng.normal(0, 2, (count, 4))
        every = np.concatenate([near, boxes(4)])
        founds.append(Found(every, rng.integers(0, 3, len(every)), rng.permutation(len(every)) / 9))
    # No two scores alike, so that the order is the same on both sides.
    for image, one in enumerate(founds):
        one.scores[:] += image / 100
    expected = [plainly(founds, truths, label, iou) for label in range(3)]
    np.testing.assert_allclose(average_precisions(founds, truths, classes=3, iou=iou), expected)
