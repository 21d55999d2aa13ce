"""JPEG by libjpeg-turbo, scaled while it is decoded where that suffices.

Source of the markers: ITU-T T.81, annex B.
"""

from __future__ import annotations

import struct
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
_APP1, _END, _SCAN, _MARK = 0xE1, 0xD9, 0xDA, 0xFF
_EXIF: Final = b"Exif\0\0"
_END_OF_IMAGE: Final = b"\xff\xd9"
_TRAILER: Final = 64
"""Bytes at the end among which the end mark must be; some cameras pad."""
_MOST_SEGMENTS: Final = 4096
_BITS: Final = 8

_LEAST_REDUCTION: Final = 2.0
"""Between 8/8 and 4/8 libjpeg-turbo has no vector code: 5/8 takes longer than the whole picture."""


def read_header(data: Data) -> Header:
    """Return size and EXIF orientation, by the markers up to the frame header."""
    position, orientation = 2, 1
    for _ in range(_MOST_SEGMENTS):
        mark, marker, length = _SEGMENT.unpack_from(data, position)
        if mark != _MARK or marker in (_END, _SCAN):
            break
        if marker in _FRAMES:
            bits, height, width = _FRAME.unpack_from(data, position + 4)
            if bits != _BITS:
                raise unsupported(f"A JPEG of {bits} bits", "send 8 bits, or PNG or TIFF of 16")
            return Header(width, height, orientation)
        if marker == _APP1 and orientation == 1:
            block = data[position + 4 : position + 2 + length]
            if bytes(block[:6]) == _EXIF:
                orientation = exif_orientation(block[6:])
        position += 1 if marker == _MARK else 2 if marker in _BARE else 2 + length
    raise broken("JPEG", "no frame header")


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
    if _END_OF_IMAGE not in bytes(data[-_TRAILER:]):
        raise broken("JPEG", "it ends early")
    try:
        samples = imagecodecs.jpeg8_decode(data)  # type: ignore[arg-type] # any buffer does
    except (imagecodecs.Jpeg8Error, ValueError) as error:
        raise broken("JPEG", error) from error
    # CMYK is stored inverted, so that black scales the colours as alpha does.
    return to_color(samples, "RGB", color)
