from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.postprocess.decoders import load_decoder
from services.postprocess.features import FeaturesError, pack, unpack
from visionmesh.contracts import Params, Placement
from visionmesh.errors import Code, Reject
from visionmesh.models.spec import ModelSpec

ANYWHERE = Placement(scale_x=1, scale_y=1, offset_x=0, offset_y=0)


def embedder(**output: object) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": "likeness",
            "task": "embedding",
            "input": {"width": 8, "height": 8},
            "output": {"decoder": "embedding", **output},
        }
    )


def embedding(spec: ModelSpec, output: NDArray[Any]) -> tuple[float, ...]:
    decoder = load_decoder(spec)
    features = unpack(pack(decoder.reduce({"o": output})))
    answer = decoder.answer(features, Params(), ANYWHERE, 8, 8)
    assert answer.embedding is not None
    return answer.embedding


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_a_vector_is_told_to_its_last_bit_in_few_digits(values: list[float]) -> None:
    told = embedding(embedder(), np.array(values, np.float32))
    again = json.loads(json.dumps(told))
    np.testing.assert_array_equal(np.array(again, np.float32), np.array(values, np.float32))
    assert all(len(f"{abs(value):e}") <= len("1.23456789e+38") for value in told)


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=50).filter(any))
def test_a_normalised_vector_has_length_1_and_the_same_direction(values: list[float]) -> None:
    told = embedding(embedder(normalize=True), np.array(values, np.float32))
    length = math.sqrt(math.fsum(value * value for value in values))
    assert told == pytest.approx([value / length for value in values], abs=1e-6)


@pytest.mark.parametrize("shape", [(6,), (6, 1, 1), (1, 6)])
def test_other_dimensions_may_be_1(shape: tuple[int, ...]) -> None:
    told = embedding(embedder(), np.arange(6, dtype=np.float16).reshape(shape))
    assert told == (0, 1, 2, 3, 4, 5)


@pytest.mark.parametrize("shape", [(2, 3), (0,), (4, 0)])
def test_outputs_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(Reject, match="D values") as caught:
        load_decoder(embedder()).reduce({"o": np.zeros(shape, np.float32)})
    assert caught.value.code is Code.MODEL_INVALID


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
@pytest.mark.parametrize("normalize", [False, True])
def test_what_is_no_finite_float32_is_refused(value: float, *, normalize: bool) -> None:
    with pytest.raises(Reject) as caught:
        load_decoder(embedder(normalize=normalize)).reduce({"o": np.array([1, value])})
    assert caught.value.code is Code.MODEL_FAILED


def test_a_vector_without_direction_is_refused() -> None:
    with pytest.raises(Reject, match="0") as caught:
        load_decoder(embedder(normalize=True)).reduce({"o": np.zeros(3, np.float32)})
    assert caught.value.code is Code.MODEL_FAILED


@pytest.mark.parametrize(
    "features",
    [
        {},
        {"vector": np.zeros(3)},
        {"vector": np.zeros((3, 1), np.float32)},
        {"vector": np.full(3, np.nan, np.float32)},
    ],
)
def test_features_of_something_else_are_refused(features: dict[str, NDArray[Any]]) -> None:
    with pytest.raises(FeaturesError):
        load_decoder(embedder()).answer(features, Params(), ANYWHERE, 8, 8)
