"""PNG by libpng: grey, palette, colour, alpha, 1 to 16 bits, interlaced.

Source of the chunks: PNG Specification, third edition (W3C, 2025), sections 5 and 11.
"""

from __future__ import annotations

import logging
import struct
from typing import Final

import imagecodecs

from services.preprocess.formats.header import Color, Data, Header, Pixels, Size, broken
from services.preprocess.formats.ifd import exif_orientation
from services.preprocess.samples import to_color

_CHUNK: Final = struct.Struct(">I4s")
_SIZE: Final = struct.Struct(">II")
_FIRST: Final = 8
_AROUND: Final = 12
"""Length, type and checksum of a chunk."""
_MOST_CHUNKS: Final = 256

# A producer's odd colour profile is no news of this worker.
logging.getLogger("imagecodecs").setLevel(logging.ERROR)


def read_header(data: Data) -> Header:
    """Return size and orientation, by the chunks before the image data."""
    length, kind = _CHUNK.unpack_from(data, _FIRST)
    if kind != b"IHDR":
        raise broken("PNG", "no header chunk")
    width, height = _SIZE.unpack_from(data, _FIRST + _CHUNK.size)
    position = _FIRST
    for _ in range(_MOST_CHUNKS):
        position += length + _AROUND
        length, kind = _CHUNK.unpack_from(data, position)
        if kind == b"eXIf":
            start = position + _CHUNK.size
            return Header(width, height, exif_orientation(data[start : start + length]))
        if kind in (b"IDAT", b"IEND"):
            break
    return Header(width, height)


def unpack(data: Data, header: Header, color: Color, target: Size | None) -> Pixels:
    """Return ``(H, W, C) uint8`` of the stored size."""
    try:
        samples = imagecodecs.png_decode(data)  # type: ignore[arg-type] # any buffer does
    except (imagecodecs.PngError, ValueError) as error:
        raise broken("PNG", error) from error
    return to_color(samples, "RGB", color)
