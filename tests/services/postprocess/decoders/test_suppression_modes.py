"""What `output.nms` and `output.class_confidence` make of a detector's candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from services.postprocess.decoders import load_decoder
from services.postprocess.decoders.candidates import (
    Chosen,
    Detector,
    DetectorParameters,
    to_features,
)
from services.postprocess.decoders.protocol import Array, Arrays, read_parameters
from services.postprocess.features import FeaturesError, pack, unpack
from tests.services.postprocess import reference
from tests.services.postprocess.reference import Found, detector
from visionmesh.contracts import Params, Placement
from visionmesh.errors import Code, ConfigurationError, Reject
from visionmesh.models.spec import ModelSpec

IDENTITY = Placement(scale_x=1, scale_y=1, offset_x=0, offset_y=0)
SIZE = (64, 48)


def output(rows: list[Found], classes: int = 2) -> Array:
    """Return what YOLOv8's head would say of these boxes."""
    values = np.zeros((4 + classes, len(rows)), np.float32)
    for column, (score, label, (x1, y1, x2, y2)) in enumerate(rows):
        values[:4, column] = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
        values[4 + label, column] = score
    return values


def told(spec: ModelSpec, rows: list[Found], params: Params | None = None) -> list[Found]:
    decoder = load_decoder(spec)
    features = decoder.reduce({"o": output(rows)})
    return reference.found(decoder.answer(features, params or Params(), IDENTITY, *SIZE))


BOXES = [
    Found(0.875, 0, (0.0, 0.0, 20.0, 20.0)),
    Found(0.75, 1, (2.0, 0.0, 22.0, 20.0)),
    Found(0.625, 0, (0.0, 2.0, 20.0, 22.0)),
    Found(0.5, 1, (40.0, 20.0, 60.0, 40.0)),
]
"""Two classes on one spot, each twice, and one box apart."""


@pytest.mark.parametrize(
    ("nms", "scores"),
    [
        ("per_class", [0.875, 0.75, 0.5]),
        ("agnostic", [0.875, 0.5]),
        ("none", [0.875, 0.75, 0.625, 0.5]),
    ],
)
def test_boxes_suppress_those_that_the_model_says(nms: str, scores: list[float]) -> None:
    assert [one.score for one in told(detector("yolov8", 2, size=SIZE, nms=nms), BOXES)] == scores


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("sigma", [0.2, 0.5])
def test_soft_suppression_lowers_scores_as_the_reference_does(seed: int, sigma: float) -> None:
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(40):
        x, y, width, height = random.integers(1, 30, 4).tolist()
        score, label = float(random.integers(1, 64)) / 64, int(random.integers(2))
        rows.append(Found(score, label, (x, y, min(x + width, 64.0), min(y + height, 48.0))))
    spec = detector("yolov8", 2, size=SIZE, nms="soft", sigma=sigma, confidence=0.1)
    wanted = reference.soften(
        [row.box for row in rows],
        [row.score for row in rows],
        [row.label for row in rows],
        least=0.1,
        sigma=sigma,
    )
    assert len(wanted) > 5
    reference.agree(
        told(spec, rows), [rows[index]._replace(score=score) for index, score in wanted]
    )


def test_a_class_may_have_a_confidence_of_its_own() -> None:
    spec = detector("yolov8", 2, size=SIZE, confidence=0.6, class_confidence={"c1": 0.4})
    assert [one.score for one in told(spec, BOXES)] == [0.875, 0.75, 0.5]
    spec = detector("yolov8", 2, size=SIZE, confidence=0.1, class_confidence={"c0": 0.9})
    assert [one.score for one in told(spec, BOXES)] == [0.75, 0.5]
    assert [one.score for one in told(spec, BOXES, Params(confidence=0.8))] == [0.875]


def test_a_soft_score_has_to_reach_the_confidence_of_its_class() -> None:
    rows = [BOXES[0], BOXES[2], *(row._replace(label=1) for row in (BOXES[0], BOXES[2]))]
    spec = detector("yolov8", 2, size=SIZE, nms="soft", class_confidence={"c1": 0.05})
    faded = 0.625 * np.exp(-(float(reference.overlap(rows[0].box, rows[1].box)) ** 2) / 0.5)
    assert 0.05 < faded < 0.25
    assert [(one.label, one.score) for one in told(spec, rows)] == [
        (0, 0.875),
        (1, 0.875),
        (1, pytest.approx(faded)),
    ]


def test_the_floor_is_as_low_as_any_class_wants_it() -> None:
    spec = detector("yolov8", 2, size=SIZE, class_confidence={"c1": 0.01})
    assert load_decoder(spec).floor == 0.01
    rows = [Found(0.015625, label, (0.0, 0.0, 9.0, 9.0)) for label in (0, 1)]
    assert [one.label for one in told(spec, rows)] == [1]


def test_a_class_without_a_label_goes_by_its_number() -> None:
    spec = detector("yolov8", 0, size=SIZE, class_confidence={"1": 0.9})
    answer = load_decoder(spec).answer(
        load_decoder(spec).reduce({"o": output(BOXES)}), Params(), IDENTITY, *SIZE
    )
    assert answer.detections is not None
    assert [one.label for one in answer.detections] == ["0"]


@pytest.mark.parametrize(("classes", "name"), [(2, "c2"), (2, "1"), (0, "c1")])
def test_a_confidence_of_no_class_is_refused(classes: int, name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"class_confidence names '{name}'") as caught:
        load_decoder(detector("yolov8", classes, size=SIZE, class_confidence={name: 0.5}))
    assert caught.value.code is Code.MODEL_INVALID


@pytest.mark.parametrize("decoder", ["end2end", "detr"])
@pytest.mark.parametrize("nms", ["agnostic", "soft"])
def test_what_suppresses_by_itself_is_not_told_to_do_so(decoder: str, nms: str) -> None:
    with pytest.raises(ConfigurationError, match="leave it out"):
        load_decoder(detector(decoder, 2, size=SIZE, nms=nms))


class Keen(Detector):
    """A detector whose boxes carry one value more, which becomes their upper left corner."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec, read_parameters(DetectorParameters, spec), columns=("more",))

    def reduce(self, outputs: Arrays) -> dict[str, Array]:
        rows = outputs["o"]
        return to_features(rows[:, :4], rows[:, 4], np.zeros(len(rows)), more=rows[:, 5:])

    def details(
        self, features: Arrays, chosen: Chosen, placement: Placement, width: int, height: int
    ) -> Mapping[str, Sequence[Any]]:
        more = features["more"][chosen.rows, 0].tolist()
        return {"corners": [((value, 0), (1, 0), (1, 1), (0, 1)) for value in more]}


KEEN = detector(f"{__name__}:Keen", 1, size=SIZE)


def test_what_a_box_carries_stays_with_it() -> None:
    rows = np.array(
        [[0, 0, 9, 9, 0.5, 1], [0, 0, 9, 8, 0.4, 2], [20, 0, 30, 9, 0.9, 3], [-9, 0, 0, 9, 0.8, 4]]
    )
    decoder = load_decoder(KEEN)
    features = unpack(pack(decoder.reduce({"o": rows})))
    found = decoder.answer(features, Params(), IDENTITY, *SIZE).detections
    assert found is not None
    assert [one.corners and one.corners[0][0] for one in found] == [3, 1]


def test_what_a_box_carries_is_finite() -> None:
    rows = np.array([[0, 0, 9, 9, 0.5, np.nan]])
    with pytest.raises(Reject) as caught:
        load_decoder(KEEN).reduce({"o": rows})
    assert caught.value.code is Code.MODEL_FAILED


@pytest.mark.parametrize("more", [{}, {"more": np.zeros((2, 1))}, {"more": np.zeros(1)}])
def test_features_without_what_a_box_carries_are_refused(more: Arrays) -> None:
    features = {"boxes": np.zeros((1, 4)), "scores": np.ones(1), "classes": np.zeros(1), **more}
    with pytest.raises(FeaturesError):
        load_decoder(KEEN).answer(features, Params(), IDENTITY, *SIZE)
