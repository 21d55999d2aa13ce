from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.postprocess.decoders import load_decoder
from services.postprocess.decoders.candidates import MAX_CANDIDATES
from tests.services.postprocess import reference
from tests.services.postprocess.reference import Found, detector
from visionmesh.contracts import Params, Placement
from visionmesh.errors import Code, Reject

SPEC = detector("yolov8", 3, size=(64, 48))
IDENTITY = Placement(scale_x=1, scale_y=1, offset_x=0, offset_y=0)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 60), st.floats(0.05, 0.95), st.floats(0.1, 0.9))
def test_any_output_is_answered_as_the_reference_does(
    seed: int, count: int, confidence: float, iou: float
) -> None:
    random = np.random.default_rng(seed)
    output = np.concatenate(
        (random.uniform(1, 64, (4, count)), random.integers(0, 9, (3, count)) / 8)
    ).astype(np.float32)
    decoder = load_decoder(SPEC)
    answer = decoder.answer(
        decoder.reduce({"o": output}), Params(confidence=confidence, iou=iou), IDENTITY, 64, 48
    )
    wanted = reference.detections(
        plain(output, confidence), iou=iou, placement=IDENTITY, width=64, height=48
    )
    assume(not reference.slivers(wanted))
    assert answer.detections is not None
    assert [(d.label, d.score) for d in answer.detections] == [
        (f"c{one.label}", one.score) for one in wanted
    ]
    for detection, one in zip(answer.detections, wanted, strict=True):
        assert detection.box == pytest.approx(one.box, abs=0.02)


def plain(output: NDArray[np.float32], least: float) -> list[Found]:
    boxes = []
    for x, y, width, height, *scores in output.T.tolist():
        best = max(scores)
        if best >= least:
            box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
            boxes.append(Found(best, scores.index(best), box))
    return boxes


def test_of_too_many_boxes_the_best_are_kept() -> None:
    count = 3 * MAX_CANDIDATES
    output = np.zeros((7, count), np.float32)
    output[5] = np.random.default_rng(1).permutation(count) / count * 0.9 + 0.05
    features = load_decoder(SPEC).reduce({"o": output})
    best = np.flatnonzero(output[5] >= np.sort(output[5])[-MAX_CANDIDATES])
    np.testing.assert_array_equal(features["scores"], output[5, best])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("row", range(7))
def test_what_is_not_finite_is_refused(row: int, value: float) -> None:
    output = np.full((7, 20), 0.5, np.float32)
    output[row, 3] = value
    with pytest.raises(Reject) as caught:
        load_decoder(SPEC).reduce({"o": output})
    assert caught.value.code is Code.MODEL_FAILED


@pytest.mark.parametrize("shape", [(6, 20), (20, 7), (7,), (1, 7, 20)])
def test_outputs_that_do_not_fit_the_labels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(Reject, match="4 \\+ 3") as caught:
        load_decoder(SPEC).reduce({"o": np.zeros(shape, np.float32)})
    assert caught.value.code is Code.MODEL_INVALID
