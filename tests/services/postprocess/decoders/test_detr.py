from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from services.postprocess.decoders import load_decoder
from services.postprocess.decoders.protocol import Array, Arrays
from tests.services.postprocess import reference
from tests.services.postprocess.reference import Found, detector
from visionmesh.contracts import Params, Placement
from visionmesh.errors import Code, ConfigurationError, Reject

SIZE = (64, 48)
PLACEMENT = Placement(scale_x=0.5, scale_y=0.25, offset_x=3, offset_y=-5)
IDENTITY = Placement(scale_x=1, scale_y=1, offset_x=0, offset_y=0)


def box(values: list[float]) -> tuple[float, float, float, float]:
    x, y, width, height = values
    return reference.sides(x * 64, y * 48, width * 64, height * 48)


def of_detr(logits: Array, boxes: Array, least: float) -> list[Found]:
    """The best class that is not the last one, "no object", is what a query tells."""
    found = []
    for row, values in zip(logits.tolist(), boxes.tolist(), strict=True):
        *scores, _ = reference.softmax(row)
        best = max(scores)
        if best >= least:
            found.append(Found(best, scores.index(best), box(values)))
    return found


def of_rt_detr(logits: Array, boxes: Array, least: float) -> list[Found]:
    """Of all queries' classes the surest are told."""
    return [
        Found(reference.sigmoid(logit), label, box(values))
        for row, values in zip(logits.tolist(), boxes.tolist(), strict=True)
        for label, logit in enumerate(row)
        if reference.sigmoid(logit) >= least
    ]


def told(outputs: Arrays, confidence: float, **parameters: Any) -> list[Found]:
    decoder = load_decoder(detector("detr", 3, size=SIZE, **parameters))
    params = Params(confidence=confidence, iou=0.0)
    return reference.found(decoder.answer(decoder.reduce(outputs), params, PLACEMENT, 100, 120))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("confidence", [0.05, 0.4])
@pytest.mark.parametrize("family", ["detr", "rt-detr", "together"])
def test_any_output_is_answered_as_the_reference_does(
    seed: int, confidence: float, family: str
) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(30, 4 if family == "detr" else 3)).astype(np.float32)
    boxes = random.uniform(0.1, 0.9, (30, 4)).astype(np.float32)
    outputs: Arrays = {"logits": logits, "pred_boxes": boxes}
    if family == "together":
        scores = 1 / (1 + np.exp(-logits))
        outputs = {"output0": np.concatenate((boxes, scores), axis=1)}
    plain = of_detr if family == "detr" else of_rt_detr
    wanted = reference.detections(
        plain(logits, boxes, confidence), iou=None, placement=PLACEMENT, width=100, height=120
    )
    assert len(wanted) > 3
    assert not reference.slivers(wanted)
    reference.agree(told(outputs, confidence), wanted)


def test_equal_queries_are_told_in_their_order() -> None:
    boxes = np.array([[0.5, 0.5, 0.25, 0.5]] * 3, np.float32)
    logits = np.array([[0, -9, 0], [1, -9, -9], [0, -9, 0]], np.float32)
    found = told({"logits": logits, "pred_boxes": boxes}, 0.25)
    assert [(one.label, one.score) for one in found] == [
        (0, pytest.approx(reference.sigmoid(1))),
        (0, 0.5),
        (2, 0.5),
        (0, 0.5),
        (2, 0.5),
    ]


def test_other_outputs_beside_boxes_and_logits_do_not_disturb() -> None:
    outputs: Arrays = {
        "last_hidden_state": np.zeros((2, 256), np.float32),
        "pred_boxes": np.full((2, 4), 0.5, np.float32),
        "logits": np.zeros((2, 3), np.float32),
    }
    assert len(told(outputs, 0.25)) == 6


def test_what_no_sigmoid_can_tell_from_nothing_is_nothing() -> None:
    outputs: Arrays = {
        "logits": np.full((2, 3), -1000, np.float32),
        "pred_boxes": np.full((2, 4), 0.5, np.float32),
    }
    assert told(outputs, 0.0) == []
    assert told({name: array[:0] for name, array in outputs.items()}, 0.0) == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["logits", "pred_boxes"])
@pytest.mark.parametrize("activation", ["softmax", "none"])
def test_what_is_not_finite_is_refused(name: str, value: float, activation: str) -> None:
    outputs: dict[str, Array] = {
        "logits": np.full((9, 3 + (activation == "softmax")), 0.5),
        "pred_boxes": np.full((9, 4), 0.5),
    }
    outputs[name][5, 1] = value
    decoder = load_decoder(detector("detr", 3, size=SIZE, activation=activation))
    with pytest.raises(Reject) as caught:
        decoder.reduce(outputs)
    assert caught.value.code is Code.MODEL_FAILED


@pytest.mark.parametrize(
    "shapes",
    [
        {"logits": (9, 5), "pred_boxes": (9, 4)},
        {"logits": (9, 2), "pred_boxes": (9, 4)},
        {"logits": (8, 3), "pred_boxes": (9, 4)},
        {"logits": (9, 3), "pred_boxes": (9, 5)},
        {"output0": (9, 6)},
        {"output0": (9,)},
        {"output0": (9, 3)},
    ],
)
def test_outputs_that_do_not_fit_the_labels_are_refused(
    shapes: dict[str, tuple[int, ...]],
) -> None:
    outputs = {name: np.zeros(shape) for name, shape in shapes.items()}
    with pytest.raises(Reject) as caught:
        load_decoder(detector("detr", 3, size=SIZE)).reduce(outputs)
    assert caught.value.code is Code.MODEL_INVALID


def test_without_labels_the_activation_must_be_said() -> None:
    with pytest.raises(ConfigurationError, match="activation"):
        load_decoder(detector("detr", 0, size=SIZE))
    decoder = load_decoder(detector("detr", 0, size=SIZE, activation="softmax"))
    outputs = {"logits": np.zeros((2, 3)), "pred_boxes": np.full((2, 4), 0.5)}
    answer = decoder.answer(decoder.reduce(outputs), Params(), IDENTITY, *SIZE)
    assert answer.detections is not None
    assert [one.label for one in answer.detections] == ["0", "0"]
