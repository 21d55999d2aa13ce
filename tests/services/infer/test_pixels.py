from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.infer.pixels import PixelWriter
from visionmesh.models.spec import InputSpec

IMAGENET = {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def by_formula(spec: InputSpec, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if spec.dtype == "uint8":
        values = image
    else:
        values = (image.astype(np.float64) * spec.scale - np.array(spec.mean)) / np.array(spec.std)
    return values.transpose(2, 0, 1) if spec.layout == "NCHW" else values


@given(
    width=st.integers(1, 9),
    height=st.integers(1, 9),
    color=st.sampled_from(["RGB", "BGR", "GRAY"]),
    layout=st.sampled_from(["NCHW", "NHWC"]),
    dtype=st.sampled_from(["float32", "float16", "uint8"]),
    numbers=st.sampled_from([{}, {"scale": 1 / 255}, {"mean": (3.0,)}, {"std": (2.5,)}]),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_kind_of_input_equals_the_formula(
    seed: int, numbers: dict[str, Any], **fields: Any
) -> None:
    spec = InputSpec.model_validate(fields | numbers)
    image = np.random.default_rng(seed).integers(
        0, 256, (spec.height, spec.width, spec.channels), np.uint8
    )
    writer = PixelWriter(spec)
    batch = writer.batch(3)

    writer.write(image, batch[1])

    assert batch.dtype == spec.dtype
    exact = by_formula(spec, image)
    tolerance = 1e-3 if spec.dtype == "float16" else 1e-5
    np.testing.assert_allclose(batch[1], exact, rtol=tolerance, atol=1e-5)
    assert not batch[0].any()
    assert not batch[2].any()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_channels_have_their_own_mean_and_deviation(layout: str) -> None:
    spec = InputSpec.model_validate({"width": 31, "height": 17, "layout": layout, **IMAGENET})
    image = np.random.default_rng(7).integers(0, 256, (17, 31, 3), np.uint8)
    writer = PixelWriter(spec)
    batch = writer.batch(1)

    writer.write(image, batch[0])

    np.testing.assert_allclose(batch[0], by_formula(spec, image), atol=1e-5)


def test_read_only_pixels_in_foreign_memory_are_read() -> None:
    spec = InputSpec(width=5, height=4)
    data = bytes(range(60)) + b"beyond"
    image = np.frombuffer(memoryview(data)[:60], np.uint8).reshape(4, 5, 3)
    assert not image.flags.writeable
    writer = PixelWriter(spec)
    batch = writer.batch(1)

    writer.write(image, batch[0])

    np.testing.assert_array_equal(batch[0], image.transpose(2, 0, 1))
