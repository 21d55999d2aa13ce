from __future__ import annotations

import hashlib
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from services.postprocess.decoders import load_decoder
from services.postprocess.features import FeaturesError, pack, unpack
from tests.services.postprocess.map_reference import PLACEMENTS, at, pixel_by_pixel
from visionmesh import rle
from visionmesh.contracts import Answer, Heatmap, Params, Placement
from visionmesh.errors import Code, ConfigurationError, Reject
from visionmesh.models.spec import ModelSpec

AS_IT_IS = Placement(scale_x=1, scale_y=1, offset_x=0, offset_y=0)
LABELS = ("good", "bad")


def finder(*labels: str, size: tuple[int, int] = (12, 8), **output: Any) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": "inspector",
            "task": "anomaly",
            "input": {"width": size[0], "height": size[1]},
            "output": {"decoder": "anomaly", **output},
            "labels": labels,
        }
    )


def answer(
    spec: ModelSpec,
    *outputs: NDArray[Any],
    placement: Placement = AS_IT_IS,
    size: tuple[int, int] | None = None,
) -> Answer:
    decoder = load_decoder(spec)
    named = {f"o{index}": array for index, array in enumerate(outputs)}
    width, height = size or (spec.input.width, spec.input.height)
    features = unpack(pack(decoder.reduce(named)))
    return decoder.answer(features, Params(), placement, width, height)


def scores(told: Answer) -> dict[str, float]:
    assert told.classes is not None
    return {one.label: one.score for one in told.classes}


def grey(heatmap: Heatmap | None) -> NDArray[np.uint8]:
    assert heatmap is not None
    image = Image.open(BytesIO(heatmap.png))
    assert (image.mode, image.format) == ("L", "PNG")
    assert image.size == (heatmap.width, heatmap.height)
    assert heatmap.sha256 == hashlib.sha256(heatmap.png).hexdigest()
    return np.asarray(image)


@pytest.mark.parametrize("name", PLACEMENTS)
@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32), st.sampled_from([(4, 4), (5, 8), (1, 3), (24, 30)]))
def test_what_is_over_the_threshold_is_told_pixel_by_pixel(
    name: str, seed: int, shape: tuple[int, int]
) -> None:
    size, input_size, placement = PLACEMENTS[name]
    spec = finder(size=input_size, threshold=0.6)
    plane = np.random.default_rng(seed).random(shape).astype(np.float32)
    told = answer(spec, plane, placement=placement, size=size)
    values = pixel_by_pixel(shape, spec.input, placement, size, partial(at, plane), unseen=0)
    assert told.regions is not None
    mask = rle.decode(told.regions[0].mask) if told.regions else values > 2
    assert (values[mask] > 0.6 - 1e-3).all()
    assert (values[~mask] < 0.6 + 1e-3).all()
    for region in told.regions:
        assert region.label == "anomalous"
        assert region.share == pytest.approx(mask.mean(), abs=1e-6)


@pytest.mark.parametrize("name", ["as it is", "letterboxed", "cropped", "stretched"])
def test_the_heat_map_is_the_original_at_the_networks_resolution(name: str) -> None:
    size, input_size, placement = PLACEMENTS[name]
    spec = finder(size=input_size, low=0.25, high=0.75)
    plane = np.random.default_rng(1).random((input_size[1], input_size[0]))
    told = answer(spec, plane, placement=placement, size=size)
    top, left = round(placement.offset_y), round(placement.offset_x)
    height = round(size[1] * placement.scale_y)
    width = round(size[0] * placement.scale_x)
    inside = plane[top : top + height, max(left, 0) : max(left, 0) + width]
    wanted = np.zeros((height, width))
    begin = max(-left, 0)
    wanted[:, begin : begin + inside.shape[1]] = ((inside - 0.25) / 0.5).clip(0, 1) * 255
    np.testing.assert_allclose(grey(told.heatmap), wanted, atol=1)
    assert told.heatmap is not None
    assert (told.heatmap.low, told.heatmap.high) == (0.25, 0.75)


def test_the_same_value_is_as_bright_in_any_image() -> None:
    calm, wild = np.full((8, 12), 0.2), np.full((8, 12), 0.2)
    wild[3, 4] = 1.0
    assert grey(answer(finder(), calm).heatmap)[0, 0] == 51
    assert grey(answer(finder(), wild).heatmap)[0, 0] == 51


@pytest.mark.parametrize(
    ("value", "score"), [(12, 0.0), (20, 0.0), (25, 0.25), (30, 0.5), (60, 0.75), (200, 1.0)]
)
def test_scores_are_a_half_at_the_threshold(value: float, score: float) -> None:
    plane = np.full((8, 12), 10.0)
    plane[5, 5] = value
    told = answer(finder(*LABELS, low=20, threshold=30, high=90), plane)
    assert scores(told) == pytest.approx({"good": 1 - score, "bad": score}, abs=1e-4)
    assert told.classes is not None
    assert told.classes[0].label == ("bad" if value >= 30 else "good")
    assert told.regions is not None
    assert [region.label for region in told.regions] == (["bad"] if value >= 30 else [])


@pytest.mark.parametrize("shape", [(), (1,)])
def test_the_networks_own_score_is_the_images(shape: tuple[int, ...]) -> None:
    plane, own = np.full((1, 8, 12), 0.9), np.full(shape, 0.125, np.float32)
    assert scores(answer(finder(), own, plane)) == {"anomalous": 0.125, "normal": 0.875}
    own = np.full((1, 1), 0.125)
    assert scores(answer(finder(score="o0", tensor="o1"), own, plane))["anomalous"] == 0.125


def test_masks_and_verdicts_beside_map_and_score_are_left_alone() -> None:
    plane, own = np.full((1, 8, 12), 0.9, np.float32), np.array([0.25], np.float32)
    told = answer(finder(), plane > 0.5, own > 0.5, plane, own)
    assert scores(told)["anomalous"] == 0.25


def test_what_lies_in_the_padding_is_no_part_of_the_image() -> None:
    _, input_size, placement = PLACEMENTS["letterboxed"]
    plane = np.full((16, 16), 0.1)
    plane[:4] = plane[12:] = 1.0
    told = answer(finder(size=input_size), plane, placement=placement, size=(30, 16))
    assert scores(told)["anomalous"] == pytest.approx(0.1, abs=1e-4)


def test_a_map_of_whole_numbers_must_be_named() -> None:
    spec = finder(tensor="o0", low=0, threshold=128, high=255)
    assert scores(answer(spec, np.full((8, 12), 64, np.uint8)))["anomalous"] == 0.25


def test_a_flat_map_is_a_map() -> None:
    told = answer(finder(), np.full((8, 12), 0.7))
    assert scores(told)["anomalous"] == pytest.approx(0.7, abs=1e-6)
    assert told.regions is not None
    assert told.regions[0].share == 1


def test_features_stay_small() -> None:
    plane = np.random.default_rng(2).random((1, 256, 256)).astype(np.float32)
    assert len(pack(load_decoder(finder()).reduce({"map": plane}))) < 135_000


def test_values_that_nobody_explained_are_refused() -> None:
    for value in (-0.5, 1.5, 40.0):
        with pytest.raises(Reject, match=r"output\.low.*output\.high") as caught:
            answer(finder(), np.full((8, 12), value))
        assert caught.value.code is Code.MODEL_INVALID


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_what_is_not_finite_is_refused(value: float, which: int) -> None:
    outputs = [np.full((8, 12), 0.5), np.array(0.5)]
    outputs[which].reshape(-1)[-1] = value
    with pytest.raises(Reject) as caught:
        answer(finder(low=0, high=1), *outputs)
    assert caught.value.code is Code.MODEL_FAILED


@pytest.mark.parametrize(
    ("shapes", "more", "complaint"),
    [
        ([(3, 8, 12)], {}, r"\(1, h, w\)"),
        ([(8, 0)], {}, r"\(1, h, w\)"),
        ([(12,)], {}, r"output\.tensor"),
        ([(8, 12), (8, 12)], {}, r"output\.tensor"),
        ([(8, 12)], {"tensor": "map"}, r"output\.tensor"),
        ([(12,)], {"tensor": "o0"}, r"\(1, h, w\)"),
        ([(8, 12), (2,)], {"score": "o1"}, "one value called 'o1'"),
        ([(8, 12)], {"score": "o1"}, "one value called 'o1'"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(
    shapes: list[tuple[int, ...]], more: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(Reject, match=complaint) as caught:
        answer(finder(**more), *map(np.zeros, shapes))
    assert caught.value.code is Code.MODEL_INVALID


@pytest.mark.parametrize(
    ("labels", "more", "complaint"),
    [
        (["good"], {}, "two labels"),
        ([], {"threshold": 1.5}, "ascend"),
        ([], {"high": float("inf")}, "high"),
        ([], {"low": float("nan")}, "low"),
        ([], {"low": 3, "threshold": 2, "high": 4}, "ascend"),
    ],
)
def test_a_wrong_description_says_what_is_wrong(
    labels: list[str], more: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        load_decoder(finder(*labels, **more))


@pytest.mark.parametrize(
    "changes",
    [
        {"map": None},
        {"score": None},
        {"map": np.zeros((8, 12), np.float32)},
        {"map": np.zeros((1, 8, 12), np.uint16)},
        {"range": np.zeros(2)},
        {"range": np.ones(3)},
        {"range": np.array([np.nan, 1])},
        {"score": np.array([np.inf])},
        {"score": np.zeros((1, 1))},
    ],
)
def test_features_of_something_else_are_refused(changes: dict[str, Any]) -> None:
    decoder = load_decoder(finder())
    features = decoder.reduce({"map": np.full((8, 12), 0.5)}) | changes
    features = {name: array for name, array in features.items() if array is not None}
    with pytest.raises(FeaturesError):
        decoder.answer(features, Params(), AS_IT_IS, 12, 8)
