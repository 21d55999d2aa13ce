from __future__ import annotations

import tracemalloc
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
from visionmesh import rle
from visionmesh.contracts import Params, Placement, Region
from visionmesh.errors import Code, ConfigurationError, Reject
from visionmesh.models.spec import ModelSpec

AS_IT_IS = Placement(scale_x=1, scale_y=1, offset_x=0, offset_y=0)
LABELS = ("background", "blowhole", "crack", "fray")


def segmenter(*labels: str, size: tuple[int, int] = (8, 6), **output: object) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": "parter",
            "task": "segmentation",
            "input": {"width": size[0], "height": size[1]},
            "output": {"decoder": "semantic", **output},
            "labels": labels,
        }
    )


def regions(
    spec: ModelSpec,
    output: NDArray[Any],
    placement: Placement = AS_IT_IS,
    size: tuple[int, int] | None = None,
) -> tuple[Region, ...]:
    decoder = load_decoder(spec)
    features = unpack(pack(decoder.reduce({"o": output})))
    width, height = size or (spec.input.width, spec.input.height)
    answer = decoder.answer(features, Params(), placement, width, height)
    assert answer.regions is not None
    return answer.regions


def painted(
    told: tuple[Region, ...], labels: tuple[str, ...], shape: tuple[int, ...]
) -> NDArray[Any]:
    """Return the class of each pixel, -1 where none is told; no pixel may have two."""
    classes = np.full(shape, -1)
    for region in told:
        mask = rle.decode(region.mask)
        assert (classes[mask] == -1).all()
        assert region.share == pytest.approx(mask.mean(), abs=1e-6)
        classes[mask] = labels.index(region.label)
    return classes


@pytest.mark.parametrize("name", PLACEMENTS)
@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32), st.sampled_from([(4, 4), (5, 8), (16, 16), (1, 3), (24, 30)]))
def test_each_pixel_has_the_class_whose_interpolated_score_is_the_largest(
    name: str, seed: int, shape: tuple[int, int]
) -> None:
    size, input_size, placement = PLACEMENTS[name]
    spec = segmenter(*LABELS, size=input_size)
    scores = np.random.default_rng(seed).normal(0, 4, (4, *shape)).astype(np.float32)
    present = np.unique(scores.argmax(axis=0))

    scores_of = {
        int(index): pixel_by_pixel(
            shape, spec.input, placement, size, partial(at, scores[index]), unseen=np.nan
        )
        for index in present
    }
    best = np.max(list(scores_of.values()), axis=0)
    found = painted(regions(spec, scores, placement, size), LABELS, best.shape)
    np.testing.assert_array_equal(found == -1, np.isnan(best))
    for index, told in scores_of.items():
        # Features are in half precision: what is all but equal may be told either way.
        assert (told[found == index] > best[found == index] - 0.02).all()


@pytest.mark.parametrize(
    ("dtype", "lead"), [(np.int64, ()), (np.int64, (1,)), (np.uint8, ()), (np.float32, ())]
)
def test_a_map_of_classes_is_enlarged_cell_by_cell(dtype: type, lead: tuple[int, ...]) -> None:
    classes = np.random.default_rng(1).integers(0, 4, (3, 4))
    spec = segmenter(*LABELS, size=(8, 6))
    placement = Placement(scale_x=0.25, scale_y=0.25, offset_x=0, offset_y=0)
    told = regions(spec, classes.reshape(*lead, 3, 4).astype(dtype), placement, (32, 24))
    np.testing.assert_array_equal(
        painted(told, LABELS, (24, 32)), classes.repeat(8, axis=0).repeat(8, axis=1)
    )


def test_the_largest_region_comes_first_and_some_can_be_dropped() -> None:
    classes = np.zeros((6, 8), np.int64)
    classes[0] = 2
    classes[1:3] = 3
    told = regions(segmenter(*LABELS), classes)
    assert [region.label for region in told] == ["background", "fray", "crack"]
    assert [region.share for region in told] == [0.5, pytest.approx(1 / 3, abs=1e-6), 0.166667]
    told = regions(segmenter(*LABELS, drop=["background", "crack"]), classes)
    assert [region.label for region in told] == ["fray"]


@pytest.mark.parametrize(
    ("labels", "threshold", "told"),
    [
        (["crack"], 0.5, ["crack"]),
        (["good", "crack"], 0.5, ["good", "crack"]),
        (["crack"], 2.0, []),
        ([], 0.5, ["0", "1"]),
    ],
)
def test_a_single_plane_is_where_the_label_is(
    labels: list[str], threshold: float, told: list[str]
) -> None:
    plane = np.full((1, 6, 8), 0.1, np.float32)
    plane[0, 2:4, 3:5] = 0.9
    found = regions(segmenter(*labels, threshold=threshold), plane)
    assert [region.label for region in found] == told
    if told:
        np.testing.assert_array_equal(rle.decode(found[-1].mask), plane[0] > 0.5)


def test_classes_may_come_last() -> None:
    scores = np.random.default_rng(2).normal(size=(4, 6, 8)).astype(np.float32)
    last = segmenter(*LABELS, channels="last")
    assert regions(last, scores.transpose(1, 2, 0)) == regions(segmenter(*LABELS), scores)


def test_features_of_a_large_map_stay_small() -> None:
    spec = segmenter(*(f"c{index}" for index in range(21)), size=(520, 520))
    rows, columns = np.mgrid[:520, :520]
    noise = np.random.default_rng(3).normal(0, 0.1, (21, 520, 520))
    scores = noise.astype(np.float32)
    for index, (x, y) in enumerate([(100, 130), (400, 300), (250, 420)], start=1):
        scores[index] += 8 - np.hypot(columns - x, rows - y) / 12
    scores[0] += 3
    assert len(pack(load_decoder(spec).reduce({"o": scores}))) < 100_000
    many = np.random.default_rng(4).normal(size=(21, 520, 520)).astype(np.float32)
    assert load_decoder(spec).reduce({"o": many}).keys() == {"map"}


def test_a_large_original_needs_little_memory() -> None:
    spec = segmenter(*LABELS, size=(64, 64))
    scores = np.random.default_rng(5).normal(size=(4, 64, 64)).astype(np.float32)
    decoder = load_decoder(spec)
    features = decoder.reduce({"o": scores})
    placement = Placement(scale_x=64 / 2000, scale_y=64 / 2000, offset_x=0, offset_y=0)
    tracemalloc.start()
    decoder.answer(features, Params(), placement, 2000, 2000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50 << 20, "all four scores of all pixels would be 64 MiB in float32"


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("shape", [(4, 6, 8), (6, 8), (1, 6, 8)])
def test_what_is_not_finite_is_refused(value: float, shape: tuple[int, ...]) -> None:
    labels = LABELS if shape[0] != 1 else ("crack",)
    output = np.zeros(shape, np.float32)
    output[..., 2, 3] = value
    with pytest.raises(Reject) as caught:
        load_decoder(segmenter(*labels)).reduce({"o": output})
    assert caught.value.code is Code.MODEL_FAILED


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        (np.zeros((3, 6, 8), np.float32), "4 classes"),
        (np.zeros((4, 6, 0), np.float32), "4 classes"),
        (np.zeros((4,), np.float32), "4 classes"),
        (np.zeros((2, 6, 8), np.int64), r"\(h, w\)"),
        (np.full((6, 8), 4), "below 4"),
        (np.full((6, 8), -1), "below 4"),
        (np.full((6, 8), 0.5, np.float32), "whole numbers"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(output: NDArray[Any], complaint: str) -> None:
    with pytest.raises(Reject, match=complaint) as caught:
        load_decoder(segmenter(*LABELS)).reduce({"o": output})
    assert caught.value.code is Code.MODEL_INVALID


def test_a_label_to_drop_must_be_one() -> None:
    with pytest.raises(ConfigurationError, match="'ground', which is not among the labels"):
        load_decoder(segmenter(*LABELS, drop=["ground"]))


GOOD = {
    "classes": np.array([0, 2], np.uint16),
    "margins": np.zeros((2, 3, 4), np.float16),
}


@pytest.mark.parametrize(
    "features",
    [
        {},
        {"classes": GOOD["classes"]},
        GOOD | {"classes": np.array([0, 4], np.uint16)},
        GOOD | {"classes": np.array([0, 1, 2], np.uint16)},
        GOOD | {"margins": np.zeros((2, 3), np.float16)},
        GOOD | {"margins": np.zeros((2, 3, 4), np.uint16)},
        {"map": np.full((3, 4), 4, np.uint16)},
        {"map": np.zeros((3, 4), np.float32)},
        {"map": np.zeros((0, 4), np.uint16)},
    ],
)
def test_features_of_something_else_are_refused(features: dict[str, NDArray[Any]]) -> None:
    with pytest.raises(FeaturesError):
        load_decoder(segmenter(*LABELS)).answer(features, Params(), AS_IT_IS, 8, 6)
