"""EXIF's eight orientations.

Source: CIPA DC-008 (Exif 3.0), section 4.6.5.1, tag 0x0112.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import cv2

from services.preprocess.formats.header import Pixels

_TURNS: Final[dict[int, Callable[[Any], Any]]] = {
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: cv2.transpose,
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.flip(cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE), 0),
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


def swaps_sides(orientation: int) -> bool:
    """Say whether width and height change places."""
    return orientation >= 5  # noqa: PLR2004 - 5 to 8 transpose


def turn(pixels: Pixels, orientation: int) -> Pixels:
    """Return ``(H, W, C)`` pixels as they are to be seen: ``(H, W, C)``, or ``(W, H, C)``."""
    if orientation == 1:
        return pixels
    turned: Pixels = _TURNS[orientation](pixels)
    return turned.reshape(*turned.shape[:2], pixels.shape[2])
