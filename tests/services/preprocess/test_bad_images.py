"""Whatever arrives instead of an image ends in a Reject with the right code, and silently."""

from __future__ import annotations

import struct
import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from services.preprocess.decode import decode
from services.preprocess.pixels import prepare
from tests.services.preprocess.pictures import MAX_PIXELS, encode, photo, png, png16
from visionmesh.errors import Code, Reject
from visionmesh.models.spec import InputSpec

FORMS = ["JPEG", "PNG", "WEBP", "BMP", "TIFF"]
FORMATS_NAMED = "send JPEG, PNG, WebP, BMP or TIFF"


def refusal(data: bytes | memoryview, max_pixels: int = MAX_PIXELS) -> Reject:
    with pytest.raises(Reject) as caught:
        decode(data, color="RGB", max_pixels=max_pixels)
    return caught.value


def jpeg_of_size(width: int, height: int) -> bytes:
    data = encode(photo(16, 16), "JPEG")
    frame = data.index(b"\xff\xc0") + 5
    return data[:frame] + struct.pack(">HH", height, width) + data[frame + 4 :]


def bmp_of_size(width: int, height: int) -> bytes:
    data = encode(photo(16, 16), "BMP")
    return data[:18] + struct.pack("<ii", width, height) + data[26:]


@pytest.mark.parametrize("body", [b"", memoryview(b"")])
def test_an_empty_body(body: bytes | memoryview) -> None:
    error = refusal(body)
    assert error.code is Code.EMPTY_BODY
    assert FORMATS_NAMED in error.message


@pytest.mark.parametrize(
    "body",
    [b"a text that was named .jpg\n" * 100, b"\0", b"\xff\xd8", b"RIFF\0\0\0\0WAVE", b"BMW", b"{}"],
)
def test_what_is_no_image(body: bytes) -> None:
    error = refusal(body)
    assert error.code is Code.NOT_AN_IMAGE
    assert FORMATS_NAMED in error.message


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (encode(photo(), "GIF"), "GIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (encode(photo(), "AVIF"), "AVIF"),
        (encode(photo(), "PDF"), "PDF"),
        (encode(photo(), "JPEG2000"), "JPEG 2000"),
        (encode(photo(), "PPM"), "Netpbm"),
        (encode(photo(), "ICO", sizes=[(16, 16)]), "icon"),
        (b"\0" * 128 + b"DICM" + b"\0" * 50, "DICOM"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41", "video"),
    ],
)
def test_formats_that_are_known_but_not_read_are_named(body: bytes, name: str) -> None:
    error = refusal(body)
    assert error.code is Code.UNSUPPORTED_FORMAT
    assert name in error.message
    assert FORMATS_NAMED in error.message


@pytest.mark.parametrize("samples", [np.float32, np.int32])
def test_a_tiff_of_other_samples_than_8_or_16_bits(samples: type[np.generic]) -> None:
    error = refusal(encode(Image.fromarray(np.ones((8, 9), samples)), "TIFF"))
    assert error.code is Code.UNSUPPORTED_FORMAT
    assert "8 or 16 bits" in error.message


def test_a_jpeg_of_twelve_bits() -> None:
    data = bytearray(encode(photo(16, 16), "JPEG"))
    data[data.index(b"\xff\xc0") + 4] = 12
    assert refusal(bytes(data)).code is Code.UNSUPPORTED_FORMAT


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_truncated_file_is_an_error_not_grey_rows(
    form: str, share: float, options: dict[str, object]
) -> None:
    data = encode(photo(), form, **options)
    error = refusal(data[: int(len(data) * share)])
    assert error.code is Code.BROKEN_IMAGE
    assert "send it again" in error.message


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_a_truncated_strip_of_a_tiff(compression: str) -> None:
    data = encode(photo(211, 900), "TIFF", compression=compression)
    assert refusal(data[: len(data) // 2]).code is Code.BROKEN_IMAGE
    moved = tiff_with_its_pixels_last(data)
    assert decode(moved, color="RGB", max_pixels=MAX_PIXELS).pixels.shape == (900, 211, 3)
    assert refusal(moved[: len(data) + len(data) // 2]).code is Code.BROKEN_IMAGE


def tiff_with_its_pixels_last(data: bytes) -> bytes:
    (start,) = struct.unpack_from("<I", data, 4)
    moved, by = bytearray(data + data[8:start]), len(data) - 8
    for entry in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12):
        tag, kind, count, at = struct.unpack_from("<HHII", data, entry)
        if tag == 273:
            assert (kind, count > 1) == (4, True)
            offsets = struct.unpack_from(f"<{count}I", data, at)
            struct.pack_into(f"<{count}I", moved, at, *(offset + by for offset in offsets))
    return bytes(moved)


def test_a_truncated_jpeg_with_rare_sampling_factors() -> None:
    data = encode(photo(mode="CMYK"), "JPEG", subsampling=2)
    assert refusal(data[: len(data) // 2]).code is Code.BROKEN_IMAGE


def test_damaged_jpeg_data_is_an_error() -> None:
    data = bytearray(encode(photo(), "JPEG"))
    middle = len(data) // 2
    data[middle : middle + 200] = b"\xff\xd9" * 100
    assert refusal(bytes(data)).code is Code.BROKEN_IMAGE


def test_a_damaged_png_chunk_is_an_error() -> None:
    data = bytearray(encode(photo(), "PNG"))
    data[len(data) // 2] ^= 0xFF
    assert refusal(bytes(data)).code is Code.BROKEN_IMAGE


@pytest.mark.parametrize(
    "body",
    [
        png(50_000, 50_000, bits=8, color_type=2, body=b""),
        png(2**31 - 1, 2**31 - 1, bits=16, color_type=6, body=b""),
        jpeg_of_size(65_500, 65_500),
        bmp_of_size(50_000, -50_000),
    ],
)
def test_a_claimed_size_beyond_the_limit_takes_no_memory(body: bytes) -> None:
    tracemalloc.start()
    error = refusal(body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert error.code is Code.IMAGE_TOO_LARGE
    assert "preprocess.max_pixels" in error.message
    assert peak < 1 << 20


@pytest.mark.parametrize("form", FORMS)
def test_the_limit_is_the_last_size_that_passes(form: str) -> None:
    data = encode(photo(20, 10), form)
    assert decode(data, color="RGB", max_pixels=200).pixels.shape == (10, 20, 3)
    assert refusal(data, max_pixels=199).code is Code.IMAGE_TOO_LARGE


@pytest.mark.parametrize(
    "body",
    [
        jpeg_of_size(0, 16),
        jpeg_of_size(16, 0),
        png(0, 5, bits=8, color_type=0, body=b""),
        bmp_of_size(0, 16),
        bmp_of_size(16, 0),
        encode(photo(16, 16), "TIFF").replace(
            struct.pack("<HHII", 256, 4, 1, 16), struct.pack("<HHII", 256, 4, 1, 0)
        ),
    ],
)
def test_an_image_without_rows_or_columns(body: bytes) -> None:
    error = refusal(body)
    assert error.code is Code.IMAGE_EMPTY
    assert "0" in error.message


@pytest.mark.parametrize("form", FORMS)
def test_only_the_first_bytes_of_an_image(form: str) -> None:
    data = encode(photo(), form)
    for length in (16, 20, 30):
        assert refusal(data[:length]).code in (Code.BROKEN_IMAGE, Code.NOT_AN_IMAGE)


def test_nothing_is_said_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    picture = photo()
    for form in FORMS:
        data = encode(picture, form)
        for share in (0.02, 0.3, 0.7, 0.95):
            refusal(data[: int(len(data) * share)])
    profile = bytearray(encode(picture, "PNG", icc_profile=b"no profile" * 30))
    decode(bytes(profile), color="RGB", max_pixels=MAX_PIXELS)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


SMALL = photo(61, 43)
SOUND = [
    *(encode(SMALL, form) for form in FORMS),
    *(encode(SMALL, "TIFF", compression=name) for name in ("tiff_lzw", "jpeg", "packbits")),
    encode(SMALL, "JPEG", progressive=True),
    encode(photo(61, 43, "CMYK"), "JPEG"),
    encode(photo(61, 43, "P"), "PNG"),
    encode(photo(61, 43, "RGBA"), "WEBP", lossless=True),
    encode(photo(61, 43, "P"), "BMP"),
    png16(np.full((43, 61, 3), 1234, np.uint16)),
    encode(SMALL, "JPEG", exif=Image.Exif().tobytes()),
]
CHANGES = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=12)


@settings(deadline=None)  # a busy machine is no defect
@given(
    data=st.sampled_from(SOUND),
    keep=st.floats(0, 1) | st.just(1.0),
    changes=CHANGES,
    near_start=st.booleans(),
)
def test_damage_anywhere_is_a_reject_or_a_picture(
    data: bytes, keep: float, changes: list[tuple[float, int]], near_start: bool
) -> None:
    damaged = bytearray(data[: int(len(data) * keep)])
    reach = min(len(damaged), 120) if near_start else len(damaged)
    for where, value in changes:
        if damaged:
            damaged[min(int(where * reach), len(damaged) - 1)] = value
    spec = InputSpec(width=24, height=32)
    out = np.zeros((32, 24, 3), np.uint8)
    with suppress(Reject):
        prepared = prepare(memoryview(bytes(damaged)), spec, out, max_pixels=1_000_000)
        assert 0 < prepared.width * prepared.height <= 1_000_000


@settings(deadline=None)  # a busy machine is no defect
@given(st.binary(max_size=200))
def test_any_bytes_after_any_signature(tail: bytes) -> None:
    for data in SOUND:
        for length in (3, 12, 40):
            with suppress(Reject):
                decoded = decode(data[:length] + tail, color="BGR", max_pixels=1_000_000)
                assert decoded.pixels.shape == (decoded.height, decoded.width, 3)


def test_a_header_of_endless_segments_is_left_early() -> None:
    assert refusal(b"\xff\xd8" + b"\xff" * 5_000_000).code is Code.BROKEN_IMAGE
    assert refusal(b"\xff\xd8" + b"\xff\xe0\0\2" * 1_000_000).code is Code.BROKEN_IMAGE


def test_an_interrupted_png_whose_checksums_hold() -> None:
    data = png(10, 200, bits=8, color_type=2, body=b"\0" * 31 * 10)
    assert refusal(data).code is Code.BROKEN_IMAGE
