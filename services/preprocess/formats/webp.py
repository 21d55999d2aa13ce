"""WebP by libwebp: lossy, lossless, alpha; the first frame of an animation.

Source of the chunks: RFC 9649, section 2.
"""

from __future__ import annotations

import struct
from typing import Final

import imagecodecs

from services.preprocess.formats.header import Color, Data, Header, Pixels, Size, broken
from services.preprocess.formats.ifd import exif_orientation
from services.preprocess.samples import to_color

_CHUNK: Final = struct.Struct("<4sI")
_FIRST: Final = 12
_BODY: Final = _FIRST + _CHUNK.size
_HAS_EXIF: Final = 0x08
_EXIF: Final = b"Exif\0\0"
_MOST_CHUNKS: Final = 4096


def read_header(data: Data) -> Header:
    """Return size and orientation, by the first chunk and the EXIF chunk if there is one."""
    kind, length = _CHUNK.unpack_from(data, _FIRST)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, _BODY + 6)
        return Header(width & 0x3FFF, height & 0x3FFF)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, _BODY + 1)
        return Header((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind != b"VP8X":
        raise broken("WebP", "no image chunk")
    flags, low, high, tall, taller = struct.unpack_from("<B3xHBHB", data, _BODY)
    orientation = _exif(data, length) if flags & _HAS_EXIF else 1
    return Header((low | high << 16) + 1, (tall | taller << 16) + 1, orientation)


def _exif(data: Data, length: int) -> int:
    position = _FIRST
    for _ in range(_MOST_CHUNKS):
        position += _CHUNK.size + length + length % 2
        if position + _CHUNK.size > len(data):
            break
        kind, length = _CHUNK.unpack_from(data, position)
        if kind == b"EXIF":
            start = position + _CHUNK.size
            block = data[start : start + length]
            return exif_orientation(block[6:] if bytes(block[:6]) == _EXIF else block)
    return 1


def unpack(data: Data, header: Header, color: Color, target: Size | None) -> Pixels:
    """Return ``(H, W, C) uint8`` of the stored size."""
    try:
        samples = imagecodecs.webp_decode(data)  # type: ignore[arg-type] # any buffer does
    except (imagecodecs.WebpError, ValueError) as error:
        raise broken("WebP", error) from error
    return to_color(samples, "RGB", color)
