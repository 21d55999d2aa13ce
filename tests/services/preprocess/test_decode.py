"""Every format becomes the pixels that an independent decoder sees."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from services.preprocess.decode import decode, open_image
from services.preprocess.formats.header import Color, Data, Pixels
from services.preprocess.formats.jpeg import is_usual
from tests.services.preprocess.pictures import (
    MAX_PIXELS,
    encode,
    interlaced_png,
    photo,
    png16,
    scene,
    tiff16,
    turned,
    upright,
)


def pixels_of(data: Data, color: Color = "RGB") -> Pixels:
    return decode(data, color=color, max_pixels=MAX_PIXELS).pixels


def largest_error(seen: Pixels, reference: Pixels) -> int:
    assert seen.shape == reference.shape
    assert seen.dtype == np.uint8
    return int(np.abs(seen.astype(int) - reference).max())


LOSSLESS = [
    ("PNG", "RGB", {}),
    ("PNG", "L", {}),
    ("PNG", "1", {}),
    ("PNG", "P", {}),
    ("PNG", "P", {"bits": 4}),
    ("WEBP", "RGB", {"lossless": True}),
    ("BMP", "RGB", {}),
    ("BMP", "L", {}),
    ("BMP", "1", {}),
    ("BMP", "P", {}),
    ("TIFF", "RGB", {}),
    ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("TIFF", "RGB", {"compression": "tiff_adobe_deflate"}),
    ("TIFF", "RGB", {"compression": "packbits"}),
    ("TIFF", "L", {}),
    ("TIFF", "P", {}),
    ("TIFF", "1", {"compression": "group4"}),
    ("TIFF", "CMYK", {}),
]


@pytest.mark.parametrize(("form", "mode", "options"), LOSSLESS)
@pytest.mark.parametrize("color", ["RGB", "BGR"])
def test_lossless_formats_are_exact(
    form: str, mode: str, options: dict[str, object], color: Color
) -> None:
    data = encode(photo(mode=mode), form, **options)
    reference = upright(data)
    assert (
        largest_error(pixels_of(data, color)[..., :: 1 if color == "RGB" else -1], reference) == 0
    )


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP", "TIFF"])
def test_grey_is_the_luma_of_the_colours(form: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    data = encode(photo(), form, **options)
    reference = cv2.cvtColor(upright(data), cv2.COLOR_RGB2GRAY)[..., None]
    assert largest_error(pixels_of(data, "GRAY"), reference) <= 1


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 2}, {"quality": 30}]
)
def test_jpeg_agrees_with_another_decoder(mode: str, options: dict[str, object]) -> None:
    data = encode(photo(mode=mode), "JPEG", **options)
    assert largest_error(pixels_of(data), upright(data)) <= 1


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_grey_of_a_jpeg_is_its_own_luma(mode: str) -> None:
    data = encode(photo(mode=mode), "JPEG")
    with Image.open(io.BytesIO(data)) as picture:
        picture.draft("L", picture.size)
        reference = np.asarray(picture)[..., None]
    assert largest_error(pixels_of(data, "GRAY"), reference) == 0


def test_grey_of_a_cmyk_jpeg() -> None:
    data = encode(photo(mode="CMYK"), "JPEG")
    reference = cv2.cvtColor(upright(data), cv2.COLOR_RGB2GRAY)[..., None]
    assert largest_error(pixels_of(data, "GRAY"), reference) <= 2


def test_lossy_webp_agrees_with_another_decoder() -> None:
    data = encode(photo(), "WEBP", quality=80)
    assert largest_error(pixels_of(data), upright(data)) <= 1


def test_the_first_frame_of_an_animated_webp_is_taken() -> None:
    second = Image.new("RGB", (211, 157), "white")
    data = encode(
        photo(), "WEBP", save_all=True, append_images=[second], lossless=True, duration=100
    )
    assert largest_error(pixels_of(data), upright(data)) == 0


@pytest.mark.parametrize(
    ("form", "mode"), [("PNG", "RGBA"), ("PNG", "LA"), ("WEBP", "RGBA"), ("TIFF", "RGBA")]
)
def test_what_is_transparent_shows_black(form: str, mode: str) -> None:
    picture = photo(mode=mode)
    data = encode(picture, form, **({"lossless": True, "exact": True} if form == "WEBP" else {}))
    black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
    reference = Image.alpha_composite(black, picture.convert("RGBA")).convert("RGB")
    assert largest_error(pixels_of(data), np.asarray(reference)) <= 1


def test_a_transparent_palette_entry_shows_black() -> None:
    picture = photo(mode="P")
    data = encode(picture, "PNG", transparency=int(np.asarray(picture)[80, 80]))
    pixels = pixels_of(data)
    clear = np.asarray(picture) == np.asarray(picture)[80, 80]
    assert not pixels[clear].any()
    assert np.array_equal(pixels[~clear], np.asarray(picture.convert("RGB"))[~clear])


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_become_eight_by_rounding(channels: int) -> None:
    ramp = np.linspace(0, 65535, 60 * 70 * channels).astype(np.uint16)
    samples = ramp.reshape(60, 70, channels)
    reference = np.broadcast_to(np.rint(samples / 257).astype(np.uint8), (60, 70, 3))
    assert largest_error(pixels_of(png16(samples)), reference) == 0
    if channels == 3:
        assert largest_error(pixels_of(tiff16(samples)), reference) == 0
    else:
        data = encode(Image.fromarray(samples[..., 0]), "TIFF")
        assert largest_error(pixels_of(data), reference) == 0


def test_sixteen_bits_with_alpha() -> None:
    samples = np.full((5, 6, 4), 40_000, np.uint16)
    samples[:, 3:, 3] = 0
    pixels = pixels_of(png16(samples))
    assert np.unique(pixels[:, :3]).tolist() == [round(round(40_000 / 257) ** 2 / 255)]
    assert not pixels[:, 3:].any()


def test_interlaced_png() -> None:
    picture = photo(45, 37, "L")
    data = interlaced_png(picture)
    assert Image.open(io.BytesIO(data)).info["interlace"] == 1
    assert largest_error(pixels_of(data), np.asarray(picture.convert("RGB"))) == 0


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("color", ["RGB", "GRAY"])
def test_every_exif_orientation_is_turned_upright(
    form: str, orientation: int, color: Color
) -> None:
    data = turned(photo(64, 40), form, orientation)
    reference = upright(data)
    decoded = decode(data, color=color, max_pixels=MAX_PIXELS)
    assert (decoded.height, decoded.width) == reference.shape[:2]
    if color == "GRAY":
        reference = cv2.cvtColor(reference, cv2.COLOR_RGB2GRAY)[..., None]
        assert np.abs(decoded.pixels.astype(int) - reference).mean() < 1
    else:
        assert largest_error(decoded.pixels, reference) <= 1


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_impossible_orientation_is_none(orientation: int) -> None:
    data = turned(photo(64, 40), "JPEG", orientation)
    assert pixels_of(data).shape == (40, 64, 3)


def test_damaged_exif_does_not_spoil_a_sound_picture() -> None:
    data = turned(photo(64, 40), "JPEG", 6)
    start = data.index(b"Exif\0\0") + 6
    assert pixels_of(data[:start] + b"xx" + data[start + 2 :]).shape == (40, 64, 3)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_scaled_while_decoding_and_stays_as_good(orientation: int) -> None:
    data = turned(photo(2400, 1800), "JPEG", orientation)
    reference = upright(data)
    wide, high = (600, 450) if orientation == 1 else (450, 600)
    decoded = decode(data, color="RGB", target=(high, wide), max_pixels=MAX_PIXELS)
    assert (decoded.height, decoded.width) == reference.shape[:2]
    assert decoded.pixels.shape == (high, wide, 3)
    exact = cv2.resize(reference, (wide, high), interpolation=cv2.INTER_AREA)
    assert cv2.PSNR(decoded.pixels, exact) > 38


@pytest.mark.parametrize("target", [(451, 10), (10, 601), (1800, 2400), (9000, 9000)])
def test_a_scaled_jpeg_is_never_smaller_than_needed(target: tuple[int, int]) -> None:
    data = encode(photo(2400, 1800), "JPEG")
    high, wide, _ = decode(data, color="RGB", target=target, max_pixels=MAX_PIXELS).pixels.shape
    assert high >= min(target[0], 1800)
    assert wide >= min(target[1], 2400)


def test_a_jpeg_less_than_twice_too_large_is_decoded_whole() -> None:
    data = encode(photo(800, 600), "JPEG")
    assert np.array_equal(
        decode(data, color="RGB", target=(310, 410), max_pixels=MAX_PIXELS).pixels, pixels_of(data)
    )


def test_a_jpeg_with_rare_sampling_factors() -> None:
    data = encode(photo(mode="CMYK"), "JPEG", subsampling=2)
    assert largest_error(pixels_of(data), upright(data)) <= 1


def test_bytes_are_read_where_they_lie() -> None:
    data = encode(photo(), "JPEG")
    around = memoryview(b"xx" + data + b"yy").toreadonly()
    assert np.array_equal(pixels_of(around[2:-2]), pixels_of(data))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 3000), (3000, 1), (97, 31)])
def test_the_header_tells_the_size(form: str, width: int, height: int) -> None:
    data = encode(Image.fromarray(scene(width, height)), form)
    image = open_image(memoryview(data), max_pixels=MAX_PIXELS)
    assert (image.width, image.height) == (width, height)
    assert pixels_of(memoryview(data)).shape == (height, width, 3)


@pytest.mark.parametrize(("lossless", "mode"), [(True, "RGB"), (False, "RGB"), (False, "RGBA")])
def test_the_header_of_every_kind_of_webp(lossless: bool, mode: str) -> None:
    data = encode(photo(333, 77, mode), "WEBP", lossless=lossless)
    image = open_image(data, max_pixels=MAX_PIXELS)
    assert (image.width, image.height) == (333, 77)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_of_sixteen_bits_is_turned_too(orientation: int) -> None:
    samples = scene(64, 40).astype(np.uint16) * 257
    reference = upright(turned(Image.fromarray(scene(64, 40)), "PNG", orientation))
    assert largest_error(pixels_of(tiff16(samples, orientation)), reference) == 0


@pytest.mark.parametrize(
    ("data", "usual"),
    [
        (encode(photo(), "JPEG"), True),
        (encode(photo(), "JPEG", progressive=True), True),
        (encode(photo(mode="L"), "JPEG"), True),
        (turned(photo(), "JPEG", 6), True),
        (encode(photo(mode="CMYK"), "JPEG"), False),
        (encode(photo(), "JPEG", keep_rgb=True), False),
        (encode(photo(), "JPEG")[:-30], False),
        (encode(photo(), "JPEG") + bytes(500), False),
        (encode(photo(), "JPEG") + bytes(5), True),
    ],
)
def test_a_jpeg_that_some_decoders_misread_is_told(data: bytes, usual: bool) -> None:
    assert is_usual(data) is usual
    assert is_usual(memoryview(data)) is usual
