"""JPEG by libjpeg-turbo, scaled while it is decoded where that suffices.

Source of the markers: ITU-T T.81, annex B.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import imagecodecs
import simplejpeg

from services.preprocess.formats.header import (
    Color,
    Data,
    Header,
    Pixels,
    Size,
    broken,
    unsupported,
)
from services.preprocess.formats.ifd import exif_orientation
from services.preprocess.samples import to_color

_SEGMENT: Final = struct.Struct(">BBH")
_FRAME: Final = struct.Struct(">BHH")
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""SOF0 to SOF15; the three between are tables."""
_BARE: Final = frozenset((0x01, *range(0xD0, 0xD8)))
"""TEM and RST0 to RST7 have no length."""
_USUAL_FRAMES: Final = (0xC0, 0xC2)
"""Baseline, progressive."""
_USUAL_COMPONENTS: Final = (1, 3)
_COMPONENT_BYTES: Final = 3
_APP1, _APP14, _END, _SCAN, _MARK = 0xE1, 0xEE, 0xD9, 0xDA, 0xFF
_EXIF: Final = b"Exif\0\0"
_ADOBE: Final = b"Adobe"
_ADOBE_BYTES: Final = 12
"""The last one tells how colours are coded (Adobe Technical Note 5116, section 18)."""
_YCBCR: Final = 1
_END_OF_IMAGE: Final = b"\xff\xd9"
_TRAILER: Final = 64
"""Bytes at the end among which the end mark must be; some cameras pad."""
_MOST_SEGMENTS: Final = 4096
_BITS: Final = 8

_LEAST_REDUCTION: Final = 2.0
"""Between 8/8 and 4/8 libjpeg-turbo has no vector code: 5/8 takes longer than the whole picture."""


def read_header(data: Data) -> Header:
    """Return size and EXIF orientation, by the markers up to the frame header."""
    orientation = 1
    for marker, begin, length in _segments(data):
        if marker in _FRAMES:
            bits, height, width = _FRAME.unpack_from(data, begin)
            if bits != _BITS:
                raise unsupported(f"A JPEG of {bits} bits", "send 8 bits, or PNG or TIFF of 16")
            return Header(width, height, orientation)
        if marker == _APP1 and orientation == 1:
            block = data[begin : begin + length]
            if bytes(block[:6]) == _EXIF:
                orientation = exif_orientation(block[6:])
    raise broken("JPEG", "no frame header")


def _segments(data: Data) -> Iterator[tuple[int, int, int]]:
    """Yield the markers up to the first scan, and where their contents begin and how long they are.

    Raises `struct.error` where the data ends.
    """
    position = 2
    for _ in range(_MOST_SEGMENTS):
        mark, marker, length = _SEGMENT.unpack_from(data, position)
        if mark != _MARK or marker in (_END, _SCAN):
            return
        yield marker, position + 4, length - 2
        position += 1 if marker == _MARK else 2 if marker in _BARE else 2 + length


def is_usual(data: Data) -> bool:
    """Say whether any decoder makes the same of a JPEG that has a frame header.

    That is one of grey or YCbCr, by Huffman's codes, sequential or progressive, and with its end:
    others take colours for what they are not, or say nothing of what is missing.
    """
    for marker, begin, length in _segments(data):
        if marker == _APP14 and bytes(data[begin : begin + 5]) == _ADOBE:
            if length < _ADOBE_BYTES or data[begin + _ADOBE_BYTES - 1] != _YCBCR:
                return False
        elif marker in _FRAMES:
            components = data[begin + _FRAME.size]
            ids = bytes(data[begin + _FRAME.size + 1 : begin + length : _COMPONENT_BYTES])
            usual = marker in _USUAL_FRAMES and components in _USUAL_COMPONENTS and ids != b"RGB"
            return usual and _has_end(data)
    return False


def _has_end(data: Data) -> bool:
    return _END_OF_IMAGE in bytes(data[-_TRAILER:])


def unpack(data: Data, header: Header, color: Color, target: Size | None) -> Pixels:
    """Return ``(H, W, C) uint8``, at least ``target`` and at most the stored size.

    The inverse DCT yields N/8 of the size directly, which is an exact low-pass and half the work;
    it is used from 4/8 downwards. Warnings of libjpeg (an early end, damaged data) are errors.
    """
    height, width = target or (header.height, header.width)
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(
            data, color, min_height=height, min_width=width, min_factor=_LEAST_REDUCTION
        )
    except ValueError as error:
        # Sampling factors beyond the usual ones have no name in TurboJPEG's interface.
        if "subsampling" in str(error):
            return _unpack_unusual(data, color)
        raise broken("JPEG", error) from error
    return pixels


def _unpack_unusual(data: Data, color: Color) -> Pixels:
    # This decoder does not tell of an early end.
    if not _has_end(data):
        raise broken("JPEG", "it ends early")
    try:
        samples = imagecodecs.jpeg8_decode(data)  # type: ignore[arg-type] # any buffer does
    except (imagecodecs.Jpeg8Error, ValueError) as error:
        raise broken("JPEG", error) from error
    # CMYK is stored inverted, so that black scales the colours as alpha does.
    return to_color(samples, "RGB", color)
