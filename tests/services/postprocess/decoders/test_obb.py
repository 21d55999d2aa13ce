from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from services.postprocess.decoders import load_decoder
from services.postprocess.decoders.protocol import Array
from services.postprocess.features import FeaturesError, pack, unpack
from tests.services.postprocess import reference_rotated as reference
from tests.services.postprocess.reference import detector
from visionmesh.contracts import Detection, Params, Placement
from visionmesh.errors import Code, Reject

SIZE = (64, 48)
SPEC = detector("obb", 2, size=SIZE)
PLACEMENT = Placement(scale_x=0.5, scale_y=0.25, offset_x=3, offset_y=-5)
IDENTITY = Placement(scale_x=1, scale_y=1, offset_x=0, offset_y=0)
OVERLAPS: dict[str, Callable[[reference.Shape, reference.Shape], float]] = {
    "probabilistic": reference.probabilistic,
    "polygon": reference.polygon,
}


class Turned(NamedTuple):
    score: float
    label: int
    shape: tuple[float, ...]


def plain(output: Array, least: float) -> list[Turned]:
    found = []
    for x, y, width, height, *scores, angle in output.T.tolist():
        best = max(scores)
        if best >= least:
            found.append(Turned(best, scores.index(best), (x, y, width, height, angle)))
    return found


def told(output: Array, params: Params, placement: Placement, **parameters: Any) -> list[Detection]:
    decoder = load_decoder(detector("obb", 2, size=SIZE, **parameters))
    features = unpack(pack(decoder.reduce({"o": output})))
    found = decoder.answer(features, params, placement, 100, 120).detections
    assert found is not None
    return list(found)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize(("confidence", "iou"), [(0.05, 0.2), (0.3, 0.5)])
def test_any_output_is_answered_as_the_reference_does(
    seed: int, overlap: str, confidence: float, iou: float
) -> None:
    random = np.random.default_rng(seed)
    output = np.empty((7, 50), np.float32)
    output[:2] = random.uniform(10, 40, (2, 50))
    output[2:4] = random.uniform(4, 30, (2, 50))
    # Eighths make equal scores, so the order of ties is seen.
    output[4:6] = random.integers(0, 9, (2, 50)) / 8
    output[6] = random.uniform(-math.pi / 4, 3 * math.pi / 4, 50)
    boxes = plain(output, confidence)
    kept = reference.suppress(
        [b.shape for b in boxes],
        [b.score for b in boxes],
        [b.label for b in boxes],
        iou,
        OVERLAPS[overlap],
    )
    got = told(output, Params(confidence=confidence, iou=iou), PLACEMENT, overlap=overlap)
    wanted = [box for index in kept if inside(box := boxes[index])]
    assert 3 < len(wanted) < len(boxes)
    assert [(one.label, one.score) for one in got] == [(f"c{b.label}", b.score) for b in wanted]
    for one, box in zip(got, wanted, strict=True):
        points = original(box)
        assert one.corners is not None
        for corner, point in zip(one.corners, points, strict=True):
            assert corner == pytest.approx(point, abs=0.02)
        across, down = [x for x, _ in points], [y for _, y in points]
        spanned = (
            max(min(across), 0),
            max(min(down), 0),
            min(max(across), 100),
            min(max(down), 120),
        )
        assert one.box == pytest.approx(spanned, abs=0.02)


def original(box: Turned) -> list[reference.Point]:
    return [((x - 3) / 0.5, (y + 5) / 0.25) for x, y in reference.corners(box.shape)]


def inside(box: Turned) -> bool:
    points = original(box)
    return min(x for x, _ in points) < 99.9 and min(y for _, y in points) < 119.9


def test_a_box_that_is_turned_by_a_right_angle_lies_on_its_side() -> None:
    output = np.array([[30], [20], [20], [10], [0.5], [0], [math.pi / 2]], np.float32)
    (found,) = told(output, Params(), IDENTITY)
    assert found.box == (25.0, 10.0, 35.0, 30.0)
    assert found.corners == ((35.0, 10.0), (35.0, 30.0), (25.0, 30.0), (25.0, 10.0))


def test_upright_spans_that_cover_each_other_do_not_suppress_turned_boxes() -> None:
    # Two thin boxes side by side on a diagonal span nearly the same square.
    output = np.array(
        [[30, 34], [20, 24], [20, 20], [2, 2], [0.9, 0.8], [0, 0], [-0.785, -0.785]], np.float32
    )
    for overlap in OVERLAPS:
        assert len(told(output, Params(iou=0.1), IDENTITY, overlap=overlap)) == 2


def test_boxes_may_be_parts_of_the_input_and_softened() -> None:
    output = np.array([[0.5], [0.5], [0.25], [0.5], [0.5], [0], [0]], np.float32).repeat(2, axis=1)
    found = told(output, Params(), IDENTITY, normalized=True, nms="soft", confidence=0.05)
    assert [one.score for one in found] == [0.5, pytest.approx(0.5 * math.exp(-2), abs=1e-6)]
    assert found[0].box == (24.0, 12.0, 40.0, 36.0)


def test_boxes_without_area_are_dropped() -> None:
    output = np.full((7, 3), 0.5, np.float32)
    output[2:4] = [[0, -3, 5], [5, 3, 0]]
    assert told(output, Params(), IDENTITY) == []
    assert told(output[:, :0], Params(), IDENTITY) == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("row", range(7))
def test_what_is_not_finite_is_refused(row: int, value: float) -> None:
    output = np.full((7, 20), 0.5, np.float32)
    output[row, 3] = value
    with pytest.raises(Reject) as caught:
        load_decoder(SPEC).reduce({"o": output})
    assert caught.value.code is Code.MODEL_FAILED


@pytest.mark.parametrize("shape", [(6, 20), (8, 20), (20, 7), (7,), (1, 7, 20)])
def test_outputs_that_do_not_fit_the_labels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(Reject, match="4 \\+ 2 \\+ 1") as caught:
        load_decoder(SPEC).reduce({"o": np.zeros(shape, np.float32)})
    assert caught.value.code is Code.MODEL_INVALID


def test_features_of_boxes_that_are_not_turned_are_refused() -> None:
    features = {"boxes": np.zeros((1, 4)), "scores": np.ones(1), "classes": np.zeros(1)}
    with pytest.raises(FeaturesError):
        load_decoder(SPEC).answer(features, Params(), IDENTITY, 64, 48)
