"""BMP by OpenCV: 1 to 32 bits, palettes, run lengths.

The fourth byte of a pixel is ignored: most writers leave it 0 and mean opaque.
"""

from __future__ import annotations

import struct
from typing import Final

import cv2

from services.preprocess.formats.header import Color, Data, Header, Pixels, Size
from services.preprocess.formats.opencv import imdecode
from services.preprocess.samples import to_color

_HEADER: Final = 14
_OLD: Final = 12
"""Size of the OS/2 header, whose numbers have 16 bits."""


def read_header(data: Data) -> Header:
    """Return the size; a negative height means rows from the top."""
    (size,) = struct.unpack_from("<I", data, _HEADER)
    width, height = struct.unpack_from("<HH" if size == _OLD else "<ii", data, _HEADER + 4)
    return Header(max(width, 0), abs(height))


def unpack(data: Data, header: Header, color: Color, target: Size | None) -> Pixels:
    """Return ``(H, W, C) uint8`` of the stored size."""
    return to_color(imdecode("BMP", data, cv2.IMREAD_COLOR), "BGR", color)
