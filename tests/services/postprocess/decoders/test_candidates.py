"""What the box detectors share: parameters, un-letterboxing, clipping, order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.postprocess.decoders import load_decoder
from services.postprocess.features import FeaturesError
from services.preprocess.resize import fit
from tests.services.postprocess.reference import detector
from visionmesh.contracts import Detection, Params, Placement
from visionmesh.models.spec import InputSpec, ModelSpec

SPEC = detector("yolov8", 2, size=(64, 48), confidence=0.3, iou=0.5, max_detections=3)
IDENTITY = Placement(scale_x=1, scale_y=1, offset_x=0, offset_y=0)

Row = tuple[float, float, float, float, float]
"""Left, top, right, bottom and the score of the first class, in input pixels."""


def detections(
    *rows: Row,
    params: Params | None = None,
    placement: Placement = IDENTITY,
    size: tuple[int, int] = (64, 48),
    spec: ModelSpec = SPEC,
) -> tuple[Detection, ...]:
    left, top, right, bottom, score = np.array(rows, np.float32).reshape(-1, 5).T
    output = np.stack(
        ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top, score, 0 * score)
    )
    decoder = load_decoder(spec)
    features = decoder.reduce({"o": output})
    answer = decoder.answer(features, params or Params(), placement, *size)
    assert answer.detections is not None
    return answer.detections


@pytest.mark.parametrize("resize", ["letterbox", "crop", "stretch"])
@pytest.mark.parametrize("anchor", ["center", "top_left"])
@pytest.mark.parametrize("original", [(200, 100), (90, 300), (31, 27), (64, 48)])
def test_a_box_lands_where_the_object_was(
    resize: str, anchor: str, original: tuple[int, int]
) -> None:
    width, height = original
    box = (0.4 * width, 0.45 * height, 0.6 * width, 0.56 * height)
    left, top, right, bottom = map(round, box)
    picture = np.zeros((height, width, 3), np.uint8)
    picture[top:bottom, left:right] = 255
    size = InputSpec.model_validate({"width": 64, "height": 48, "resize": resize, "anchor": anchor})
    seen = np.zeros((48, 64, 3), np.uint8)
    placement = fit(picture, original, size.model_copy(update={"pad": 0}), seen)
    rows, columns = np.nonzero(seen[:, :, 0] > 127)
    answer = detections(
        (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1, 0.9),
        placement=placement,
        size=original,
    )
    # Half a pixel of the input on either side, as large as that is in the original.
    assert answer[0].box[0::2] == pytest.approx((left, right), abs=0.6 / placement.scale_x)
    assert answer[0].box[1::2] == pytest.approx((top, bottom), abs=0.6 / placement.scale_y)


_SIDE = st.integers(0, 999)


@given(
    st.tuples(_SIDE, _SIDE, st.integers(1, 500), st.integers(1, 500)),
    st.tuples(st.floats(0.1, 8), st.floats(0.1, 8), st.floats(-400, 400), st.floats(-400, 400)),
)
def test_the_way_back_undoes_the_placement(
    box: tuple[int, int, int, int], place: tuple[float, float, float, float]
) -> None:
    left, top, width, height = box
    scale_x, scale_y, offset_x, offset_y = place
    row = (
        left * scale_x + offset_x,
        top * scale_y + offset_y,
        (left + width) * scale_x + offset_x,
        (top + height) * scale_y + offset_y,
        0.9,
    )
    placement = Placement(scale_x=scale_x, scale_y=scale_y, offset_x=offset_x, offset_y=offset_y)
    (found,) = detections(row, placement=placement, size=(1500, 1500))
    assert found.box == pytest.approx((left, top, left + width, top + height), abs=0.05)


def test_boxes_are_clipped_and_those_outside_are_dropped() -> None:
    answer = detections((-20, 40, 10, 70, 0.9), (70, 5, 90, 20, 0.8), (-9, 0, 0, 48, 0.7))
    assert [found.box for found in answer] == [(0.0, 40.0, 10.0, 48.0)]


def test_a_box_outside_takes_no_place_of_those_inside() -> None:
    outside, *inside = [
        (80.0 * (place == 0), 9.0 * place, 99.0, 9.0 * place + 8) for place in range(4)
    ]
    rows = [(*box, 0.9 - place / 10) for place, box in enumerate([outside, *inside])]
    assert [found.score for found in detections(*rows)] == [0.8, 0.7, 0.6]


def test_equal_scores_keep_the_networks_order() -> None:
    rows: list[Row] = [(x, 0, x + 5, 5, 0.5) for x in (30, 10, 20)]
    assert [found.box[0] for found in detections(*rows)] == [30, 10, 20]


ROWS: tuple[Row, ...] = (
    (0, 0, 10, 10, 0.9),
    (0, 0, 10, 6, 0.8),
    (20, 0, 30, 10, 0.4),
    (40, 0, 50, 10, 0.2),
    (0, 20, 10, 30, 0.06),
)


@pytest.mark.parametrize(
    ("params", "scores"),
    [
        (Params(), [0.9, 0.4]),
        (Params(iou=0.7), [0.9, 0.8, 0.4]),
        (Params(confidence=0.5), [0.9]),
        (Params(confidence=0.2), [0.9, 0.4, 0.2]),
        (Params(confidence=0.0, max_detections=9), [0.9, 0.4, 0.2, 0.06]),
        (Params(max_detections=1), [0.9]),
    ],
)
def test_the_producers_parameters_win_over_the_models(params: Params, scores: list[float]) -> None:
    assert [found.score for found in detections(*ROWS, params=params)] == pytest.approx(scores)


def test_the_floor_is_known_and_can_be_lowered() -> None:
    assert load_decoder(SPEC).floor == 0.05
    lower = detector("yolov8", 2, size=(64, 48), floor=0.01)
    row: Row = (0, 0, 10, 10, 0.02)
    params = Params(confidence=0.01)
    assert load_decoder(lower).floor == 0.01
    assert len(detections(row, params=params, spec=lower)) == 1
    assert detections(row, params=params) == ()


def test_the_models_own_confidence_is_never_below_the_floor() -> None:
    spec = detector("yolov8", 2, size=(64, 48), confidence=0.02)
    assert load_decoder(spec).floor == 0.02
    assert len(detections((0, 0, 10, 10, 0.03), spec=spec)) == 1


def test_nothing_found_is_an_answer_too() -> None:
    assert detections() == ()


@pytest.mark.parametrize(
    "features",
    [
        {},
        {"boxes": np.zeros((2, 4)), "scores": np.zeros(2)},
        {"boxes": np.zeros((2, 4)), "scores": np.zeros(3), "classes": np.zeros(2)},
        {"boxes": np.zeros((1, 4)), "scores": np.ones(1), "classes": np.array([2])},
    ],
)
def test_features_of_something_else_are_refused(features: dict[str, np.ndarray]) -> None:
    with pytest.raises(FeaturesError):
        load_decoder(SPEC).answer(features, Params(), IDENTITY, 64, 48)
