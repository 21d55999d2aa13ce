from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from services.postprocess.decoders import load_decoder
from services.postprocess.decoders.protocol import Array, Arrays
from tests.services.postprocess import reference
from tests.services.postprocess.reference import Found, detector
from visionmesh.contracts import Params, Placement
from visionmesh.errors import Code, Reject

SIZE = (64, 48)
SPEC = detector("end2end", 3, size=SIZE)
PLACEMENT = Placement(scale_x=0.5, scale_y=0.25, offset_x=3, offset_y=-5)
IDENTITY = Placement(scale_x=1, scale_y=1, offset_x=0, offset_y=0)


def plain(boxes: Array, scores: Array, classes: Array, least: float) -> list[Found]:
    rows = zip(boxes.tolist(), scores.tolist(), classes.tolist(), strict=True)
    return [Found(score, int(label), tuple(box)) for box, score, label in rows if score >= least]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(0, 40), st.floats(0.05, 0.95), st.sampled_from([0, 1, 4]))
def test_any_output_is_answered_as_the_reference_does(
    seed: int, count: int, confidence: float, outputs: int
) -> None:
    random = np.random.default_rng(seed)
    corner = random.uniform(-5, 50, (count, 2))
    boxes = np.concatenate((corner, corner + random.uniform(1, 40, (count, 2))), axis=1)
    boxes = boxes.astype(np.float32)
    scores = (random.integers(0, 9, count) / 8).astype(np.float32)
    classes = random.integers(0, 3, count)
    meant = count if outputs < 4 else int(random.integers(0, count + 1))
    several: Arrays = {
        "num_dets": np.array([meant], np.int32),
        "det_boxes": boxes,
        "det_scores": scores,
        "det_classes": classes.astype(np.int32),
    }
    if outputs == 1:
        several = {"output0": np.concatenate((boxes, scores[:, None], classes[:, None]), axis=1)}
    elif outputs == 0:
        several = {name: array for name, array in several.items() if name != "num_dets"}
    decoder = load_decoder(SPEC)
    params = Params(confidence=confidence, iou=0.0)
    answer = decoder.answer(decoder.reduce(several), params, PLACEMENT, 100, 120)
    wanted = reference.detections(
        plain(boxes[:meant], scores[:meant], classes[:meant], confidence),
        iou=None,
        placement=PLACEMENT,
        width=100,
        height=120,
    )
    assume(not reference.slivers(wanted))
    reference.agree(reference.found(answer), wanted)


def test_tensorflows_detections_are_read_as_they_are() -> None:
    spec = detector("end2end", 3, size=SIZE, normalized=True, order="yxyx", first_class=1)
    outputs: Arrays = {
        "detection_boxes": np.array([[0.25, 0.5, 0.5, 0.75], [0, 0, 1, 1]], np.float32),
        "detection_scores": np.array([0.5, 0.75], np.float32),
        "detection_classes": np.array([2.0, 3.0], np.float32),
        "num_detections": np.array(1.0, np.float32),
    }
    decoder = load_decoder(spec)
    answer = decoder.answer(decoder.reduce(outputs), Params(), IDENTITY, *SIZE)
    assert reference.found(answer) == [Found(0.5, 1, (32.0, 12.0, 48.0, 24.0))]


def test_outputs_whose_names_say_nothing_are_named_in_the_description() -> None:
    outputs: Arrays = {
        "a": np.array([[0, 0, 9, 9]], np.float32),
        "b": np.array([2], np.int64),
        "c": np.array([0.5], np.float32),
    }
    with pytest.raises(Reject, match=r"let output\.boxes name") as caught:
        load_decoder(SPEC).reduce(outputs)
    assert caught.value.code is Code.MODEL_INVALID
    decoder = load_decoder(detector("end2end", 3, size=SIZE, boxes="a", classes="b", scores="c"))
    answer = decoder.answer(decoder.reduce(outputs), Params(), IDENTITY, *SIZE)
    assert reference.found(answer) == [Found(0.5, 2, (0.0, 0.0, 9.0, 9.0))]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("column", range(6))
def test_what_is_not_finite_is_refused(column: int, value: float) -> None:
    output = np.full((20, 6), 0.5, np.float32)
    output[3, column] = value
    with pytest.raises(Reject) as caught:
        load_decoder(SPEC).reduce({"o": output})
    assert caught.value.code is Code.MODEL_FAILED


@pytest.mark.parametrize(("first", "label"), [(0, 3), (0, -1), (1, 0)])
def test_a_class_that_the_model_lacks_is_refused(first: int, label: float) -> None:
    decoder = load_decoder(detector("end2end", 3, size=SIZE, first_class=first))
    with pytest.raises(Reject, match="first_class") as caught:
        decoder.reduce({"o": np.array([[0, 0, 9, 9, 0.5, label]])})
    assert caught.value.code is Code.MODEL_INVALID


@pytest.mark.parametrize("shape", [(20, 7), (6, 20), (6,), (1, 20, 6)])
def test_an_output_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(Reject, match="end2end wants") as caught:
        load_decoder(SPEC).reduce({"o": np.zeros(shape, np.float32)})
    assert caught.value.code is Code.MODEL_INVALID


@pytest.mark.parametrize(
    "wrong",
    [
        {"boxes": np.zeros((3, 4))},
        {"boxes": np.zeros((4, 2))},
        {"scores": np.zeros((4, 1))},
        {"classes": np.zeros(3)},
        {"num": np.array([5])},
        {"num": np.array([-1])},
        {"num": np.zeros(2)},
    ],
)
def test_outputs_that_do_not_fit_each_other_are_refused(wrong: Arrays) -> None:
    outputs: dict[str, Array] = {
        "boxes": np.zeros((4, 4)),
        "scores": np.zeros(4),
        "classes": np.zeros(4),
        "num": np.array([4]),
    }
    assert load_decoder(SPEC).reduce(outputs)["scores"].shape == (0,)
    with pytest.raises(Reject) as caught:
        load_decoder(SPEC).reduce({**outputs, **wrong})
    assert caught.value.code is Code.MODEL_INVALID
