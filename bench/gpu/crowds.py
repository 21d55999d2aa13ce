"""What detectors say of pictures: of a few objects, of crowds, and when nobody has trained them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]


def crowd(random: np.random.Generator, *, objects: int, boxes: int, classes: int) -> Float:
    """Return (4 + C, A) of a picture of 640 pixels: several boxes tell of each object.

    The rest of the boxes are background, which scores next to nothing.
    """
    output = np.empty((4 + classes, boxes), np.float32)
    output[:4] = random.uniform(8, 632, (4, boxes))
    output[4:] = random.uniform(0, 0.01, (classes, boxes))
    told = random.choice(boxes, min(8 * objects, boxes), replace=False)
    of = random.integers(objects, size=len(told))
    centers, sizes = random.uniform(0, 640, (2, objects)), random.uniform(20, 160, (2, objects))
    jitter = random.normal(0, 0.06, (4, len(told)))
    output[:2, told] = centers[:, of] + jitter[:2] * sizes[:, of]
    output[2:4, told] = sizes[:, of] * np.exp(jitter[2:])
    labels = random.integers(classes, size=objects)
    output[4 + labels[of], told] = random.beta(2, 2, len(told))
    return output


def noise(random: np.random.Generator, *, boxes: int, classes: int) -> Float:
    """Return (4 + C, A) of a network that is sure of everything; many scores are equal."""
    output = np.empty((4 + classes, boxes), np.float32)
    output[:2] = random.uniform(0, 640, (2, boxes))
    output[2:4] = random.uniform(10, 200, (2, boxes))
    output[4:] = random.integers(0, 256, (classes, boxes)) / 256
    return output
