"""Results drawn onto their images, for people to look at."""

from __future__ import annotations

import colorsys
import unicodedata
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from visionmesh.contracts import Result, Status

Image = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]
"""Blue, green, red."""

_WHITE: Colour = (255, 255, 255)
_BLACK: Colour = (0, 0, 0)
_RED: Colour = (40, 40, 200)

_TEXT_SHARE = 48
"""A line of text is this part of the image's height (of its width, if that is the smaller) …"""
_TEXT_PIXELS = (11, 48)
"""… but not smaller than can be read, nor larger than is needed."""
_LETTER_PIXELS = 21
"""Height of a capital letter of OpenCV's simplex font at scale 1."""
_MARGIN = 0.35
"""Around a text, in heights of its letters."""


@dataclass(frozen=True, kw_only=True)
class _Pen:
    """Sizes that fit the image: the letters' height and the lines' width, in pixels."""

    height: int
    line: int

    @property
    def margin(self) -> int:
        return max(2, round(self.height * _MARGIN))


def draw(image: Image, result: Result) -> Image:
    """Return a copy of ``image`` with what ``result`` says about it.

    Detections become boxes with label and score, the surest on top; classes and errors become a
    caption in the upper left corner.

    Parameters
    ----------
    image
        (H, W, 3) uint8, BGR: the original that the result speaks of, with its orientation applied.
    """
    canvas = image.copy()
    pen = _pen(canvas)
    for found in reversed(result.detections or ()):
        _box(canvas, pen, found.box, f"{found.label} {found.score:.2f}", colour_of(found.label))
    if result.status is not Status.OK:
        message = result.error.message if result.error is not None else ""
        _caption(canvas, pen, [f"{result.status}: {message}"], [_RED])
    elif result.classes is not None:
        lines = [f"{best.label} {best.score:.2f}" for best in result.classes]
        _caption(canvas, pen, lines, [colour_of(best.label) for best in result.classes])
    return canvas


def colour_of(label: str) -> Colour:
    """Return the colour of a class: always the same, saturated, and seldom another class's."""
    # The golden ratio spreads the hues of hashes that lie close together.
    digest = zlib.crc32(label.encode())
    hue = digest * 0.618033988749895 % 1.0
    value = 1.0 if digest & 1 else 0.8
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, value)
    return round(blue * 255), round(green * 255), round(red * 255)


def _pen(image: Image) -> _Pen:
    smallest, largest = _TEXT_PIXELS
    height = min(max(min(image.shape[:2]) // _TEXT_SHARE, smallest), largest)
    return _Pen(height=height, line=max(1, round(height / 6)))


def _box(
    image: Image, pen: _Pen, box: tuple[float, float, float, float], text: str, colour: Colour
) -> None:
    import cv2  # noqa: PLC0415 - a consumer that never draws needs no OpenCV

    left, top, right, bottom = (round(side) for side in box)
    cv2.rectangle(image, (left, top), (right - 1, bottom - 1), colour, pen.line, cv2.LINE_AA)
    above = top - pen.height - 2 * pen.margin
    # What is small must not disappear under its name.
    _tag(image, pen, (left, above if above >= 0 else bottom), text, colour)


def _caption(image: Image, pen: _Pen, lines: list[str], colours: list[Colour]) -> None:
    step = pen.height + 2 * pen.margin
    for row, (line, colour) in enumerate(zip(lines, colours, strict=True)):
        _tag(image, pen, (0, row * step), line, colour)


def _tag(image: Image, pen: _Pen, corner: tuple[int, int], text: str, colour: Colour) -> None:
    """Write ``text`` on a plate of ``colour``, moved and shrunk until it lies in the image."""
    import cv2  # noqa: PLC0415 - as above

    font: Any = cv2.FONT_HERSHEY_SIMPLEX
    text = _plain(text)
    scale = pen.height / _LETTER_PIXELS
    weight = max(1, round(scale * 1.6))
    room = image.shape[1] - 2 * pen.margin
    (width, _), _ = cv2.getTextSize(text, font, scale, weight)
    if width > room:
        scale *= max(room, 1) / width
        width = room
    plate = width + 2 * pen.margin, pen.height + 2 * pen.margin
    left = max(0, min(corner[0], image.shape[1] - plate[0]))
    top = max(0, min(corner[1], image.shape[0] - plate[1]))
    cv2.rectangle(image, (left, top), (left + plate[0], top + plate[1]), colour, cv2.FILLED)
    base = left + pen.margin, top + pen.margin + pen.height
    cv2.putText(image, text, base, font, scale, _ink(colour), weight, cv2.LINE_AA)


def _plain(text: str) -> str:
    """Return ``text`` in ASCII, which is all that the font can be relied on to have."""
    letters = (c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return "".join(letters).encode("ascii", "replace").decode()


def _ink(paper: Colour) -> Colour:
    """Return black or white, whichever reads better (luma of ITU-R BT.601)."""
    blue, green, red = paper
    bright = 0.114 * blue + 0.587 * green + 0.299 * red > 140  # noqa: PLR2004 - a little over half
    return _BLACK if bright else _WHITE
