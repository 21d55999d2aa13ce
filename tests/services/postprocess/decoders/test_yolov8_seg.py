from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.postprocess.decoders import load_decoder
from services.postprocess.features import FeaturesError, pack, unpack
from tests.services.postprocess.map_reference import PLACEMENTS, at, pixel_by_pixel
from tests.services.postprocess.reference import detector
from visionmesh import rle
from visionmesh.contracts import Detection, Params, Placement
from visionmesh.errors import Code, Reject
from visionmesh.models.spec import ModelSpec

AS_IT_IS = Placement(scale_x=1, scale_y=1, offset_x=0, offset_y=0)
SPEC = detector("yolov8_seg", 3, size=(12, 8))
MASKS = 6


def detections(
    spec: ModelSpec,
    outputs: dict[str, NDArray[Any]],
    placement: Placement,
    size: tuple[int, int],
    params: Params | None = None,
) -> tuple[Detection, ...]:
    decoder = load_decoder(spec)
    features = unpack(pack(decoder.reduce(outputs)))
    answer = decoder.answer(features, params or Params(), placement, *size)
    assert answer.detections is not None
    return answer.detections


def network(
    seed: int, spec: ModelSpec, shape: tuple[int, int], count: int
) -> dict[str, NDArray[np.float32]]:
    """Return random outputs whose boxes reach into the input from all sides."""
    random = np.random.default_rng(seed)
    width, height = spec.input.width, spec.input.height
    centers = random.uniform(0, 1, (2, count)) * [[width], [height]]
    sizes = random.uniform(0.1, 1, (2, count)) * [[width], [height]]
    scores = random.uniform(0, 1, (3, count))
    coefficients = random.normal(size=(MASKS, count))
    boxes = np.concatenate((centers, sizes, scores, coefficients))
    prototypes = random.normal(size=(MASKS, *shape))
    return {"boxes": boxes.astype(np.float32), "prototypes": prototypes.astype(np.float32)}


def likelihood(plane: NDArray[np.float64], x: float, y: float) -> float:
    return 1 / (1 + math.exp(-at(plane, x, y)))


@pytest.mark.parametrize("name", PLACEMENTS)
@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**32), st.sampled_from([(4, 4), (5, 8), (1, 3), (24, 30)]))
def test_each_mask_is_the_sum_of_the_prototypes_within_the_box(
    name: str, seed: int, shape: tuple[int, int]
) -> None:
    size, input_size, placement = PLACEMENTS[name]
    spec = detector("yolov8_seg", 3, size=input_size, nms="none")
    outputs = network(seed, spec, shape, 4)
    found = detections(spec, outputs, placement, size)
    boxes = outputs["boxes"].astype(float)
    order = sorted(range(4), key=lambda index: -boxes[4:7, index].max())
    for detection in found:
        index = next(i for i in order if abs(boxes[4:7, i].max() - detection.score) < 1e-5)
        plane = np.zeros(shape)
        for coefficient, prototype in zip(boxes[7:, index], outputs["prototypes"], strict=True):
            plane += coefficient * prototype
        likely = pixel_by_pixel(
            shape,
            spec.input,
            placement,
            size,
            partial(likelihood, plane),
            unseen=0,
        )
        x1, y1, x2, y2 = detection.box
        for y in range(size[1]):
            for x in range(size[0]):
                if not (x1 <= x + 0.5 < x2 and y1 <= y + 0.5 < y2):
                    likely[y, x] = 0
        assert detection.mask is not None
        mask = rle.decode(detection.mask)
        # Prototypes are kept in 256 steps: what is all but even may be told either way.
        assert (likely[mask] > 0.48).all()
        assert (likely[~mask] < 0.52).all()


def test_boxes_and_scores_are_those_of_the_plain_decoder() -> None:
    outputs = network(5, SPEC, (4, 6), 40)
    plain = detector("yolov8", 3, size=(12, 8))
    wanted = detections(plain, {"boxes": outputs["boxes"][:7]}, AS_IT_IS, (12, 8))
    found = detections(SPEC, outputs, AS_IT_IS, (12, 8))
    assert len(found) > 1
    assert [one.model_copy(update={"mask": None}) for one in found] == list(wanted)


def test_features_stay_small() -> None:
    spec = detector("yolov8_seg", 3, size=(640, 640))
    outputs = network(6, spec, (160, 160), 300)
    assert len(pack(load_decoder(spec).reduce(outputs))) < 200_000
    nothing = outputs | {"boxes": outputs["boxes"] * 0}
    assert len(pack(load_decoder(spec).reduce(nothing))) < 500
    assert detections(spec, nothing, AS_IT_IS, (640, 640)) == ()


def test_outputs_are_found_by_their_names_or_dimensions() -> None:
    outputs = network(7, SPEC, (4, 6), 5)
    wanted = detections(SPEC, outputs, AS_IT_IS, (12, 8))
    more = {"other": outputs["prototypes"] * 0, "what": np.zeros(3, np.float32), **outputs}
    named = detector("yolov8_seg", 3, size=(12, 8), tensor="boxes", prototypes="prototypes")
    assert detections(named, more, AS_IT_IS, (12, 8)) == wanted
    for missing in ({}, more, {"boxes": outputs["boxes"]}, {"p": outputs["prototypes"]}):
        with pytest.raises(Reject, match=r"output\.prototypes") as caught:
            load_decoder(SPEC).reduce(missing)
        assert caught.value.code is Code.MODEL_INVALID


@pytest.mark.parametrize(
    ("boxes", "prototypes"),
    [
        ((12, 5), (MASKS, 4, 6)),
        ((14, 5), (MASKS, 4, 6)),
        ((13,), (MASKS, 4, 6)),
        ((7, 5), (0, 4, 6)),
    ],
)
def test_outputs_that_do_not_fit_are_refused(
    boxes: tuple[int, ...], prototypes: tuple[int, ...]
) -> None:
    outputs = {"b": np.zeros(boxes, np.float32), "p": np.zeros(prototypes, np.float32)}
    with pytest.raises(Reject, match=r"4 \+ 3 \+ M") as caught:
        load_decoder(SPEC).reduce(outputs)
    assert caught.value.code is Code.MODEL_INVALID


@pytest.mark.parametrize("name", ["boxes", "prototypes"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(name: str, value: float) -> None:
    outputs = network(8, SPEC, (4, 6), 5)
    outputs["boxes"][4] = 0.9
    outputs[name][-1, 3] = value
    with pytest.raises(Reject) as caught:
        load_decoder(SPEC).reduce(outputs)
    assert caught.value.code is Code.MODEL_FAILED


@pytest.mark.parametrize(
    "changes",
    [
        {"prototypes": None},
        {"ranges": None},
        {"coefficients": None},
        {"prototypes": np.zeros((MASKS, 4, 6), np.float32)},
        {"prototypes": np.zeros((MASKS - 1, 4, 6), np.uint8)},
        {"ranges": np.zeros((MASKS, 3), np.float32)},
    ],
)
def test_features_of_something_else_are_refused(changes: dict[str, Any]) -> None:
    decoder = load_decoder(SPEC)
    features = decoder.reduce(network(9, SPEC, (4, 6), 5)) | changes
    features = {name: array for name, array in features.items() if array is not None}
    with pytest.raises(FeaturesError):
        decoder.answer(features, Params(), AS_IT_IS, 12, 8)
