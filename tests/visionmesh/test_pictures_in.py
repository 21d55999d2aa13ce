"""What is published for arrays and for images of Pillow."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from visionmesh.errors import Code, Refused
from visionmesh.pictures_in import encoded


def noise(height: int = 3, width: int = 5) -> NDArray[np.uint8]:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


@given(st.integers(1, 9), st.integers(1, 9))
async def test_pixels_arrive_as_they_are(height: int, width: int) -> None:
    pixels = noise(height, width)
    file = await encoded(pixels)
    with_opencv = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)
    assert with_opencv is not None
    np.testing.assert_array_equal(with_opencv[..., ::-1], pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(file))), pixels)


async def test_arrays_may_lie_in_memory_as_they_like() -> None:
    pixels = noise(8, 10)
    for view in (pixels[::2, ::-1], pixels.transpose(1, 0, 2), np.asfortranarray(pixels)):
        assert await encoded(view) == await encoded(view.copy())


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK", "I;16"])
async def test_images_of_pillow_are_taken_in_any_mode(mode: str) -> None:
    image = Image.fromarray(noise(4, 6))
    image = Image.new("I;16", (6, 4), 300) if mode == "I;16" else image.convert(mode)
    file = await encoded(image)
    np.testing.assert_array_equal(
        np.asarray(Image.open(BytesIO(file))), np.asarray(image.convert("RGB"))
    )


async def test_bytes_and_files_travel_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"anything")
    given_ = (b"anything", bytearray(b"anything"), memoryview(b"anything"), tmp_path / "a.jpg")
    assert [await encoded(one) for one in (*given_, str(tmp_path / "a.jpg"))] == [b"anything"] * 5


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
    ],
    ids=lambda array: f"{array.shape} {array.dtype}",
)
async def test_other_arrays_are_told(array: Any) -> None:
    with pytest.raises(ValueError, match=r"must be \(height, width, 3\) of uint8"):
        await encoded(array)


async def test_other_things_are_told() -> None:
    with pytest.raises(TypeError, match="this is int"):
        await encoded(7)  # type: ignore[arg-type]  # what is tested


async def test_pixels_that_no_message_holds_are_refused() -> None:
    with pytest.raises(Refused, match="as a JPEG or PNG file") as caught:
        await encoded(np.zeros((4000, 4000, 3), np.uint8))
    assert caught.value.code is Code.PAYLOAD_TOO_LARGE
