from __future__ import annotations

import numpy as np
import pytest

from services.preprocess.pixels import Prepared
from visionmesh.contracts import Answer, ClassScore, Detection, Placement
from visionmesh.models.agreement import Seen, accuracy, first_class
from visionmesh.models.rightness import agreement
from visionmesh.rle import encode
from visionmesh.workbench import Sample

HALF = Placement(scale_x=0.5, scale_y=0.5, offset_x=0, offset_y=0)
SAMPLE = Sample(np.zeros((2, 2, 3), np.uint8), Prepared(100, 100, HALF))


def box(x: float, label: str = "cat", score: float = 0.9, size: float = 50) -> Detection:
    return Detection(label=label, score=score, box=(x, 10, x + size, 10 + size))


def seen(*boxes: Detection, faint: tuple[Detection, ...] = ()) -> Seen:
    return Seen({}, Answer(detections=boxes), Answer(detections=(*boxes, *faint)))


def called(label: str) -> Seen:
    answer = Answer(classes=(ClassScore(label=label, score=0.9),))
    return Seen({}, answer, answer)


NOTHING = Seen({}, None, None)


@pytest.mark.parametrize(
    ("ours", "theirs", "share"),
    [
        (seen(), seen(), 1),
        (seen(box(10), box(70)), seen(box(70), box(10)), 1),
        # 16 pixels of the original are 8 of the input.
        (seen(box(10)), seen(box(26)), 1),
        (seen(box(10)), seen(box(27)), 0),
        # What hardly overlaps is another box, as near as its edges are.
        (seen(box(10, size=20)), seen(box(22, size=20)), 0),
        (seen(box(10, size=20)), seen(box(16, size=20)), 1),
        (seen(box(10), box(12)), seen(box(11)), 2 / 3),
        (seen(box(10)), seen(box(10, "dog")), 0),
        (seen(box(10), box(70)), seen(box(10)), 2 / 3),
        (seen(box(10), box(70, score=0.26)), seen(box(10), faint=(box(70, score=0.24),)), 1),
        (seen(), seen(box(10)), 0),
        (seen(box(10)), NOTHING, 0),
        (NOTHING, NOTHING, 1),
        (called("ash"), called("ash"), 1),
        (called("ash"), called("birch"), 0),
    ],
)
def test_agreement_is_the_share_of_answers_that_have_a_partner(
    ours: Seen, theirs: Seen, share: float
) -> None:
    assert agreement([SAMPLE], [ours], [theirs]) == pytest.approx(share)
    assert agreement([SAMPLE], [theirs], [ours]) == pytest.approx(share)


def test_a_partner_has_the_same_mask() -> None:
    full, empty = (
        box(10).model_copy(update={"mask": encode(np.full((4, 4), value))})
        for value in (True, False)
    )
    assert agreement([SAMPLE], [seen(full)], [seen(full)]) == 1
    assert agreement([SAMPLE], [seen(full)], [seen(empty)]) == 0


def test_agreement_counts_over_all_images() -> None:
    ours = [called("ash"), called("ash"), called("birch")]
    theirs = [called("ash"), called("birch"), called("birch")]
    assert agreement([SAMPLE] * 3, ours, theirs) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("readings", "truths", "share"),
    [
        ([called("ash"), called("birch")], ["ash", "ash"], 0.5),
        ([called("ash"), NOTHING], ["ash", "ash"], 0.5),
        ([called("ash")], [None], None),
        ([seen(box(10))], ["cat"], None),
    ],
)
def test_accuracy_is_told_of_classes_whose_truth_is_known(
    readings: list[Seen], truths: list[str | None], share: float | None
) -> None:
    assert accuracy([first_class(one.answer) for one in readings], truths) == share
