"""Words on images: on plates, in a size that fits the image."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any

from visionmesh.overlays import Colour, Image

WHITE: Colour = (255, 255, 255)
BLACK: Colour = (0, 0, 0)

_TEXT_SHARE = 48
"""A line of text is this part of the image's height (of its width, if that is the smaller) …"""
_TEXT_PIXELS = (11, 48)
"""… but not smaller than can be read, nor larger than is needed."""
_LETTER_PIXELS = 21
"""Height of a capital letter of OpenCV's simplex font at scale 1."""
_MARGIN = 0.35
"""Around a text, in heights of its letters."""


@dataclass(frozen=True, kw_only=True)
class Pen:
    """Sizes that fit an image: the letters' height and the lines' width, in pixels."""

    height: int
    line: int

    @classmethod
    def fitting(cls, image: Image) -> Pen:
        smallest, largest = _TEXT_PIXELS
        height = min(max(min(image.shape[:2]) // _TEXT_SHARE, smallest), largest)
        return cls(height=height, line=max(1, round(height / 6)))

    @property
    def margin(self) -> int:
        return max(2, round(self.height * _MARGIN))

    @property
    def row(self) -> int:
        """Height of a plate."""
        return self.height + 2 * self.margin + 1

    @property
    def scale(self) -> float:
        """Of the font."""
        return self.height / _LETTER_PIXELS

    @property
    def weight(self) -> int:
        return max(1, round(self.scale * 1.6))


def width_of(text: str, pen: Pen) -> int:
    """Return the width of the plate of ``text`` in pixels."""
    return _letters(_plain(text), pen) + 2 * pen.margin + 1


def write(image: Image, pen: Pen, corner: tuple[int, int], text: str, colour: Colour) -> None:
    """Write ``text`` on a plate of ``colour``, moved and shrunk until it lies in the image."""
    import cv2  # noqa: PLC0415 - a consumer that never draws needs no OpenCV

    font: Any = cv2.FONT_HERSHEY_SIMPLEX
    text = _plain(text)
    scale, width = pen.scale, _letters(text, pen)
    room = image.shape[1] - 2 * pen.margin
    if width > room:
        scale *= max(room, 1) / width
        width = room
    plate = width + 2 * pen.margin + 1
    left = max(0, min(corner[0], image.shape[1] - plate))
    top = max(0, min(corner[1], image.shape[0] - pen.row))
    image[top : top + pen.row, left : left + plate] = colour
    base = left + pen.margin, top + pen.margin + pen.height
    cv2.putText(image, text, base, font, scale, _ink(colour), pen.weight, cv2.LINE_AA)


def _letters(text: str, pen: Pen) -> int:
    import cv2  # noqa: PLC0415 - as above

    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, pen.scale, pen.weight)
    return int(width)


def _plain(text: str) -> str:
    """Return ``text`` in ASCII, which is all that the font can be relied on to have."""
    letters = (c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return "".join(letters).encode("ascii", "replace").decode()


def _ink(paper: Colour) -> Colour:
    """Return black or white, whichever reads better (luma of ITU-R BT.601)."""
    blue, green, red = paper
    bright = 0.114 * blue + 0.587 * green + 0.299 * red > 140  # noqa: PLR2004 - a little over half
    return BLACK if bright else WHITE
