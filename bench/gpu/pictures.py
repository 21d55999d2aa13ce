"""Pictures for benchmarks that bring none along: noise of all scales, and shapes with sharp edges.

As JPEGs they are about as large as photos of their size.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
_OCTAVES = 6
_SHAPES = 24
_GRAIN = 7.0
_QUALITY = 85


def picture(number: int, *, width: int, height: int) -> Pixels:
    """Return a picture, ``(height, width, 3) uint8``; another one for each number."""
    random = np.random.default_rng(number)
    image = np.full((height, width, 3), 128, np.float32)
    for octave in range(_OCTAVES):
        cells = 2 << octave
        noise = random.normal(0, 48 / (1 + octave), (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    image += random.normal(0, _GRAIN, image.shape).astype(np.float32)
    for _ in range(_SHAPES):
        colour = random.uniform(0, 255, 3).tolist()
        centre = (int(random.integers(width)), int(random.integers(height)))
        axes = [int(side) for side in random.integers(4, max(5, height // 6), 2)]
        cv2.ellipse(image, centre, axes, random.uniform(0, 180), 0, 360, colour, -1, cv2.LINE_AA)
    return np.clip(image, 0, 255).astype(np.uint8)


def pictures(count: int, *, width: int, height: int) -> list[bytes]:
    """Return JPEGs, no two alike."""
    flags = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    return [
        cv2.imencode(".jpg", picture(number, width=width, height=height), flags)[1].tobytes()
        for number in range(count)
    ]
