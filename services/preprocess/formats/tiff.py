"""TIFF by libtiff through OpenCV: the first picture of the file, in any compression it knows.

Source of the tags: TIFF 6.0 (Adobe, 1992), section 8.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from services.preprocess.formats.header import (
    Color,
    Data,
    Header,
    Pixels,
    Size,
    broken,
    unsupported,
)
from services.preprocess.formats.ifd import ORIENTATION, read_tags, valid_orientation
from services.preprocess.formats.opencv import imdecode
from services.preprocess.orientation import swaps_sides
from services.preprocess.samples import to_color

_WIDTH, _HEIGHT, _BITS, _SAMPLE_FORMAT = 256, 257, 258, 339
_WANTED: Final = frozenset((_WIDTH, _HEIGHT, _BITS, _SAMPLE_FORMAT, ORIENTATION))
_UNSIGNED: Final = 1
_MOST_BITS: Final = 16
_ALPHA: Final = 4


def read_header(data: Data) -> Header:
    """Return the size of the first picture, upright."""
    try:
        tags = read_tags(data, _WANTED)
    except ValueError as error:
        raise broken("TIFF", error) from error
    if _WIDTH not in tags or _HEIGHT not in tags:
        raise broken("TIFF", "its directory names no size")
    if tags.get(_SAMPLE_FORMAT, _UNSIGNED) != _UNSIGNED or tags.get(_BITS, 1) > _MOST_BITS:
        raise unsupported(
            "A TIFF of floating-point, signed or 32-bit samples", "save it with 8 or 16 bits"
        )
    width, height = tags[_WIDTH], tags[_HEIGHT]
    # OpenCV turns a TIFF upright, asked or not.
    if swaps_sides(valid_orientation(tags.get(ORIENTATION, 1))):
        width, height = height, width
    return Header(width, height)


def unpack(data: Data, header: Header, color: Color, target: Size | None) -> Pixels:
    """Return ``(H, W, C) uint8``, upright."""
    samples = imdecode("TIFF", data, cv2.IMREAD_UNCHANGED)
    if samples.dtype == np.uint8 and samples.shape[2:] == (_ALPHA,):
        # libtiff has already multiplied 8-bit colours by their alpha.
        samples = cv2.cvtColor(samples, cv2.COLOR_BGRA2BGR)
    return to_color(samples, "BGR", color)
