"""What lies over an image, pixel by pixel: tinted masks, glowing heat-maps, and their legend."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
"""(H, W, 3), BGR."""
Colour = tuple[int, int, int]
"""Blue, green, red."""

_TINT = 0.4
"""Opacity of a mask: what lies under it stays to be seen."""

_GLOW = 0.65
"""Opacity of the heat-map where it is white …"""
_CLEAR = 0.15
"""… falling to nothing at this share of the way up: what is normal is shown as it is."""


def tint(
    image: Image, mask: npt.NDArray[np.bool_], colour: Colour, *, line: int, fill: bool
) -> None:
    """Draw a line around the ``mask`` (H, W), and ``fill`` it so that one still sees through."""
    import cv2  # noqa: PLC0415 - a consumer that never draws needs no OpenCV

    if not mask.any():
        return
    pixels = mask.astype(np.uint8)
    left, top, width, height = cv2.boundingRect(pixels)
    box = slice(top, top + height), slice(left, left + width)
    if fill:
        part, within = image[box], mask[box]
        part[within] = np.rint(part[within] * (1 - _TINT) + np.multiply(colour, _TINT))
    # Around, not on the edge: a line would hide what is small.
    wider = cv2.dilate(np.pad(pixels[box], line), np.ones((2 * line + 1, 2 * line + 1), np.uint8))
    outlines, _ = cv2.findContours(wider, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(
        image, outlines, -1, colour, line, cv2.LINE_AA, offset=(left - line, top - line)
    )


def glow(image: Image, png: bytes) -> None:
    """Lay a grey heat-map over the whole ``image``: the more unusual, the hotter and denser.

    The colours are those of matplotlib's *inferno*, whose brightness rises evenly, also for eyes
    that tell colours badly and on grey prints.
    """
    import cv2  # noqa: PLC0415 - as above

    grey = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)
    if grey is None:
        raise ValueError("the heat-map is not a PNG")
    height, width = image.shape[:2]
    heat = cv2.resize(grey, (width, height), interpolation=cv2.INTER_LINEAR)
    opacity = cv2.LUT(heat, _opacities())[:, :, None].astype(np.uint16)
    hot = cv2.applyColorMap(heat, cv2.COLORMAP_INFERNO)
    image[:] = (image * (255 - opacity) + hot * opacity + 127) // 255


def legend(image: Image) -> None:
    """Fill ``image`` with the heat-map's colours, the lowest value on the left."""
    import cv2  # noqa: PLC0415 - as above

    height, width = image.shape[:2]
    values = np.linspace(0, 255, width).round().astype(np.uint8)
    image[:] = cv2.applyColorMap(np.tile(values, (height, 1)), cv2.COLORMAP_INFERNO)


def _opacities() -> Image:
    """Return the opacity of each grey, 0 to 255."""
    values = np.arange(256) / 255
    return np.rint(255 * _GLOW * ((values - _CLEAR) / (1 - _CLEAR)).clip(0)).astype(np.uint8)
