"""Results drawn onto their images, for people to look at."""

from __future__ import annotations

import colorsys
import zlib

import numpy as np

from visionmesh.contracts import Detection, Heatmap, Result, Rle, Status
from visionmesh.lettering import BLACK, Pen, width_of, write
from visionmesh.overlays import Colour, Image, glow, legend, tint
from visionmesh.rle import decode

_RED: Colour = (40, 40, 200)
_CYAN: Colour = (255, 255, 0)
"""Neither a colour of heat-maps nor one of metal, wood or copper."""

_LEGEND = 12
"""Length of the heat-map's scale, in heights of the letters."""

_Lines = list[tuple[str, Colour]]


def draw(image: Image, result: Result, *, heatmap: bytes | None = None) -> Image:
    """Return a copy of ``image`` with what ``result`` says about it.

    Detections become boxes, upright or turned, with label and score, the surest on top; masks are
    tinted and outlined; classes, regions and errors become a caption in the upper left corner.

    With a heat-map the image glows where it is unusual, and what is over the threshold has a cyan
    outline; caption and legend stand above and below the image then, where they hide nothing.

    Parameters
    ----------
    image
        (H, W, 3) uint8, BGR: the original that the result speaks of, with its orientation applied.
    heatmap
        The PNG of ``result.heatmap``; raises `ValueError` if it is something else.
    """
    canvas = image.copy()
    pen = Pen.fitting(canvas)
    if heatmap is not None and result.heatmap is not None:
        return _inspected(canvas, pen, result, result.heatmap, heatmap)
    for region in result.regions or ():
        _mask(canvas, pen, region.mask, colour_of(region.label))
    for found in reversed(result.detections or ()):
        _detection(canvas, pen, found)
    lines = _classes(result) or _regions(result)
    _caption(canvas, pen, lines[: max(1, canvas.shape[0] // 2 // pen.row)])
    return canvas


def colour_of(label: str) -> Colour:
    """Return the colour of a class: always the same, saturated, and seldom another class's."""
    # The golden ratio spreads the hues of hashes that lie close together.
    digest = zlib.crc32(label.encode())
    hue = digest * 0.618033988749895 % 1.0
    value = 1.0 if digest & 1 else 0.8
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, value)
    return round(blue * 255), round(green * 255), round(red * 255)


def _inspected(canvas: Image, pen: Pen, result: Result, scale: Heatmap, heatmap: bytes) -> Image:
    import cv2  # noqa: PLC0415 - a consumer that never draws needs no OpenCV

    glow(canvas, heatmap)
    for region in result.regions or ():
        _mask(canvas, pen, region.mask, _CYAN, fill=False)
    for found in reversed(result.detections or ()):
        _detection(canvas, pen, found)
    lines = _classes(result) + [(text, _CYAN) for text, _ in _regions(result)]
    above, below = len(lines) * pen.row, pen.row + pen.margin
    sheet: Image = cv2.copyMakeBorder(canvas, above, below, 0, 0, cv2.BORDER_CONSTANT, value=BLACK)
    _caption(sheet, pen, lines)
    _legend(sheet, pen, scale)
    return sheet


def _mask(image: Image, pen: Pen, mask: Rle, colour: Colour, *, fill: bool = True) -> None:
    pixels = decode(mask)
    if pixels.shape == image.shape[:2]:  # one of another image cannot be laid over this one
        tint(image, pixels, colour, line=pen.line, fill=fill)


def _detection(image: Image, pen: Pen, found: Detection) -> None:
    import cv2  # noqa: PLC0415 - as above

    colour = colour_of(found.label)
    left, top, right, bottom = (round(side) for side in found.box)
    if found.mask is not None:
        _mask(image, pen, found.mask, colour)
    if found.corners is not None:
        corners = np.array(found.corners).round().astype(np.int32)
        cv2.polylines(image, [corners], True, colour, pen.line, cv2.LINE_AA)
    else:
        cv2.rectangle(image, (left, top), (right - 1, bottom - 1), colour, pen.line, cv2.LINE_AA)
    above = top - pen.row
    # What is small must not disappear under its name.
    corner = left, above if above >= 0 else bottom
    write(image, pen, corner, f"{found.label} {found.score:.2f}", colour)


def _classes(result: Result) -> _Lines:
    if result.status is not Status.OK:
        message = result.error.message if result.error is not None else ""
        return [(f"{result.status}: {message}", _RED)]
    return [(f"{one.label} {one.score:.2f}", colour_of(one.label)) for one in result.classes or ()]


def _regions(result: Result) -> _Lines:
    return [
        (f"{one.label}: {one.share:.2%} of the image", colour_of(one.label))
        for one in result.regions or ()
    ]


def _caption(image: Image, pen: Pen, lines: _Lines) -> None:
    for row, (line, colour) in enumerate(lines):
        write(image, pen, (0, row * pen.row), line, colour)


def _legend(image: Image, pen: Pen, heatmap: Heatmap) -> None:
    """Draw the heat-map's scale at the lower edge, with its values at the ends."""
    low, high = f"{heatmap.low:g}", f"{heatmap.high:g}"
    top, left = image.shape[0] - pen.row, width_of(low, pen)
    right = min(left + _LEGEND * pen.height, image.shape[1] - width_of(high, pen))
    write(image, pen, (0, top), low, BLACK)
    if right > left:
        legend(image[top + pen.margin :, left:right])
    write(image, pen, (right, top), high, BLACK)
