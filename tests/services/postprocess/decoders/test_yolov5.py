from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from services.postprocess.decoders import load_decoder
from services.postprocess.decoders.protocol import Array
from tests.services.postprocess import reference
from tests.services.postprocess.reference import Found, detector
from visionmesh.contracts import Params, Placement
from visionmesh.errors import Code, Reject

SIZE = (64, 48)
SPEC = detector("yolov5", 3, size=SIZE)
PLACEMENT = Placement(scale_x=0.5, scale_y=0.25, offset_x=3, offset_y=-5)
IDENTITY = Placement(scale_x=1, scale_y=1, offset_x=0, offset_y=0)


def plain(output: Array, least: float) -> list[Found]:
    """Objectness times the best class is a row's score."""
    boxes = []
    for x, y, width, height, objectness, *scores in output.tolist():
        best = max(scores)
        if objectness * best >= least:
            box = reference.sides(x, y, width, height)
            boxes.append(Found(objectness * best, scores.index(best), box))
    return boxes


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(0, 60), st.floats(0.05, 0.95), st.floats(0.1, 0.9))
def test_any_output_is_answered_as_the_reference_does(
    seed: int, count: int, confidence: float, iou: float
) -> None:
    random = np.random.default_rng(seed)
    # Quarters make equal scores; their products are exact, so the order of ties is defined.
    output = np.concatenate(
        (random.uniform(1, 64, (count, 4)), random.integers(0, 5, (count, 4)) / 4), axis=1
    ).astype(np.float32)
    decoder = load_decoder(SPEC)
    params = Params(confidence=confidence, iou=iou)
    answer = decoder.answer(decoder.reduce({"o": output}), params, PLACEMENT, 100, 120)
    wanted = reference.detections(
        plain(output, confidence), iou=iou, placement=PLACEMENT, width=100, height=120
    )
    assume(not reference.slivers(wanted))
    reference.agree(reference.found(answer), wanted)


@pytest.mark.parametrize("decoder", ["yolov5", "yolov8"])
def test_boxes_may_be_parts_of_the_input(decoder: str) -> None:
    output = np.array([[0.5, 0.25, 0.25, 0.5, 1, 0, 0.5, 0]], np.float32)
    if decoder == "yolov8":
        output = np.delete(output, 4, axis=1).T
    spec = load_decoder(detector(decoder, 3, size=SIZE, normalized=True))
    answer = spec.answer(spec.reduce({"o": output}), Params(), IDENTITY, *SIZE)
    assert reference.found(answer) == [Found(0.5, 1, (24.0, 0.0, 40.0, 24.0))]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("column", range(8))
def test_what_is_not_finite_is_refused(column: int, value: float) -> None:
    output = np.full((20, 8), 0.5, np.float32)
    output[3, column] = value
    with pytest.raises(Reject) as caught:
        load_decoder(SPEC).reduce({"o": output})
    assert caught.value.code is Code.MODEL_FAILED


@pytest.mark.parametrize("shape", [(20, 7), (8, 20), (8,), (1, 20, 8)])
def test_outputs_that_do_not_fit_the_labels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(Reject, match="5 \\+ 3") as caught:
        load_decoder(SPEC).reduce({"o": np.zeros(shape, np.float32)})
    assert caught.value.code is Code.MODEL_INVALID
