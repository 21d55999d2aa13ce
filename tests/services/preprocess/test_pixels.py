"""One call takes an encoded image into a model's input."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from services.preprocess.formats.header import Color, Pixels
from services.preprocess.pixels import Prepared, prepare
from tests.services.preprocess.pictures import MAX_PIXELS, encode, photo, turned, upright
from visionmesh.errors import Code, Reject
from visionmesh.models.spec import InputSpec, Resize

PHOTOS = sorted((Path(__file__).parents[4] / "shared/data/photos").glob("*.jpg"))


def prepared(data: bytes, spec: InputSpec) -> tuple[Pixels, Prepared]:
    out = np.empty((spec.height, spec.width, spec.channels), np.uint8)
    return out, prepare(memoryview(data), spec, out, max_pixels=MAX_PIXELS)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("resize", list(Resize))
@pytest.mark.parametrize("color", ["RGB", "BGR"])
def test_every_format_and_mode_equals_opencv_within_one_grey_level(
    form: str, resize: Resize, color: Color
) -> None:
    data = encode(photo(500, 375), form)
    spec = InputSpec(width=320, height=320, resize=resize, color=color)
    out, facts = prepared(data, spec)
    pixels = upright(data)[..., :: 1 if color == "RGB" else -1]
    match resize:
        case Resize.LETTERBOX:
            whole = cv2.resize(pixels, (320, 240))
            expected = cv2.copyMakeBorder(
                whole, 40, 40, 0, 0, cv2.BORDER_CONSTANT, value=(114, 114, 114)
            )
        case Resize.CROP:
            expected = cv2.resize(pixels, (427, 320))[:, 53 : 53 + 320]
        case Resize.STRETCH:
            expected = cv2.resize(pixels, (320, 320))
    assert np.abs(out.astype(int) - expected).max() <= 1
    assert (facts.width, facts.height) == (500, 375)


def test_sizes_and_placement_are_those_of_the_upright_original() -> None:
    spec = InputSpec(width=100, height=100)
    out, facts = prepared(turned(photo(1600, 1200), "JPEG", 6), spec)
    assert (facts.width, facts.height) == (1200, 1600)
    assert facts.placement.scale_x == 75 / 1200
    assert facts.placement.offset_x == 12
    assert (out[:, :12] == 114).all()
    assert (out[:, 87:] == 114).all()


@pytest.mark.parametrize("resize", list(Resize))
@pytest.mark.parametrize("orientation", [1, 8])
def test_a_large_jpeg_is_as_good_as_one_averaged_from_all_its_pixels(
    resize: Resize, orientation: int
) -> None:
    data = turned(photo(2600, 1900), "JPEG", orientation)
    spec = InputSpec(width=224, height=224, resize=resize)
    out, facts = prepared(data, spec)
    place = facts.placement
    sharp = cv2.resize(
        upright(data),
        (round(place.scale_x * facts.width), round(place.scale_y * facts.height)),
        interpolation=cv2.INTER_AREA,
    )
    left, top = int(place.offset_x), int(place.offset_y)
    seen = out[max(top, 0) :, max(left, 0) :][: sharp.shape[0], : sharp.shape[1]]
    exact = sharp[max(-top, 0) :, max(-left, 0) :][: seen.shape[0], : seen.shape[1]]
    assert seen.shape == exact.shape
    assert cv2.PSNR(np.ascontiguousarray(seen), np.ascontiguousarray(exact)) > 35


def test_threads_at_once_make_the_same_pixels() -> None:
    files = [encode(photo(300 + 7 * n, 200 + n), "JPEG") for n in range(8)]
    spec = InputSpec(width=128, height=96)
    alone = [prepared(data, spec)[0] for data in files]
    with ThreadPoolExecutor(4) as pool:
        together = pool.map(lambda data: prepared(data, spec)[0], files * 4)
    for n, out in enumerate(together):
        assert np.array_equal(out, alone[n % len(files)])


def test_a_limit_of_pixels_holds_for_the_original() -> None:
    data = encode(photo(100, 100), "JPEG")
    out = np.empty((8, 8, 3), np.uint8)
    with pytest.raises(Reject) as caught:
        prepare(data, InputSpec(width=8, height=8), out, max_pixels=9_999)
    assert caught.value.code is Code.IMAGE_TOO_LARGE


@pytest.mark.skipif(not PHOTOS, reason="the real photos (../shared/data/photos) are not here")
@pytest.mark.parametrize("color", ["RGB", "BGR"])
def test_real_photos_equal_opencv_within_one_grey_level(color: Color) -> None:
    spec = InputSpec(width=416, height=416, anchor="top_left", color=color)
    flag = cv2.IMREAD_COLOR_RGB if color == "RGB" else cv2.IMREAD_COLOR
    for path in PHOTOS:
        pixels = cv2.imread(str(path), flag)
        assert pixels is not None
        high, wide = pixels.shape[:2]
        out, facts = prepared(path.read_bytes(), spec)
        assert (facts.width, facts.height) == (wide, high)
        scale = min(416 / wide, 416 / high)
        if scale <= 0.5:
            continue
        size = round(wide * scale), round(high * scale)
        seen = out[: size[1], : size[0]]
        assert np.abs(seen.astype(int) - cv2.resize(pixels, size)).max() <= 1
        assert (out[size[1] :] == 114).all()
        assert (out[:, size[0] :] == 114).all()
