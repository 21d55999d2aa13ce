"""From a decoder's samples to the eight-bit pixels that a model is fed."""

from __future__ import annotations

from typing import Any, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from services.preprocess.formats.header import Color, Pixels

_FROM: Final = {
    (1, "RGB", "RGB"): cv2.COLOR_GRAY2RGB,
    (1, "RGB", "BGR"): cv2.COLOR_GRAY2BGR,
    (3, "RGB", "BGR"): cv2.COLOR_RGB2BGR,
    (3, "RGB", "GRAY"): cv2.COLOR_RGB2GRAY,
    (4, "RGB", "RGB"): cv2.COLOR_RGBA2RGB,
    (4, "RGB", "BGR"): cv2.COLOR_RGBA2BGR,
    (4, "RGB", "GRAY"): cv2.COLOR_RGBA2GRAY,
    (1, "BGR", "RGB"): cv2.COLOR_GRAY2RGB,
    (1, "BGR", "BGR"): cv2.COLOR_GRAY2BGR,
    (3, "BGR", "RGB"): cv2.COLOR_BGR2RGB,
    (3, "BGR", "GRAY"): cv2.COLOR_BGR2GRAY,
    (4, "BGR", "RGB"): cv2.COLOR_BGRA2RGB,
    (4, "BGR", "BGR"): cv2.COLOR_BGRA2BGR,
    (4, "BGR", "GRAY"): cv2.COLOR_BGRA2GRAY,
}
"""By channels, order of the samples and order wanted; what is missing needs no conversion."""

_GREY_ALPHA: Final = 2
_COLOR_ALPHA: Final = 4


def to_color(samples: NDArray[Any], order: Literal["RGB", "BGR"], color: Color) -> Pixels:
    """Return ``samples`` as ``(H, W, 3 or 1) uint8`` in the order ``color``.

    ``samples`` are ``(H, W[, 1 to 4])`` uint8 or uint16: grey, or colours in ``order``, and then
    perhaps alpha, not multiplied in. 16 bits become 8 by ``round(x / 257)``. What is transparent
    shows black: the value that encoders leave in clear pixels, and so what networks saw in
    training, where alpha is usually dropped.
    """
    if samples.dtype == np.uint16:
        samples = cv2.convertScaleAbs(samples, alpha=1 / 257)
    channels = samples.shape[2] if samples.ndim == 3 else 1  # noqa: PLR2004 - (H, W, C)
    if channels == _GREY_ALPHA:
        grey, alpha = cv2.split(samples)
        samples, channels = cv2.multiply(grey, alpha, scale=1 / 255), 1
    elif channels == _COLOR_ALPHA:
        samples = cv2.cvtColor(samples, cv2.COLOR_RGBA2mRGBA)
    conversion = _FROM.get((channels, order, color))
    if conversion is not None:
        samples = cv2.cvtColor(samples, conversion)
    return samples.reshape(*samples.shape[:2], -1)
