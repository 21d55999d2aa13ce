"""What maps over the input say of the original's pixels: slow, plain Python, pixel by pixel."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionmesh.contracts import Placement
from visionmesh.models.spec import InputSpec

PLACEMENTS = {
    # original (width, height), input (width, height)
    "as it is": ((12, 8), (12, 8), Placement(scale_x=1, scale_y=1, offset_x=0, offset_y=0)),
    "letterboxed": (
        (30, 14),
        (16, 16),
        Placement(scale_x=16 / 30, scale_y=0.5, offset_x=0, offset_y=4),
    ),
    "enlarged": ((5, 7), (24, 32), Placement(scale_x=4.6, scale_y=4.5714, offset_x=1, offset_y=0)),
    "cropped": ((40, 16), (16, 16), Placement(scale_x=1, scale_y=1, offset_x=-12, offset_y=0)),
    "stretched": (
        (31, 9),
        (16, 24),
        Placement(scale_x=16 / 31, scale_y=24 / 9, offset_x=0, offset_y=0),
    ),
}


def at(plane: NDArray[Any], x: float, y: float) -> float:
    """Interpolate between cells whose centres are at whole numbers."""
    rows, columns = plane.shape
    x, y = min(max(x, 0.0), columns - 1.0), min(max(y, 0.0), rows - 1.0)
    left, top = math.floor(x), math.floor(y)
    right, bottom = min(left + 1, columns - 1), min(top + 1, rows - 1)
    above = plane[top, left] + (plane[top, right] - plane[top, left]) * (x - left)
    below = plane[bottom, left] + (plane[bottom, right] - plane[bottom, left]) * (x - left)
    return float(above + (below - above) * (y - top))


def pixel_by_pixel(
    shape: tuple[int, ...],
    spec: InputSpec,
    placement: Placement,
    size: tuple[int, int],
    tell: Callable[[float, float], float],
    *,
    unseen: float,
) -> NDArray[np.float64]:
    """Ask ``tell`` (x, y in cells) about the centre of each pixel of an original of ``size``."""
    width, height = size
    told = np.full((height, width), unseen, float)
    for y in range(height):
        for x in range(width):
            across = (x + 0.5) * placement.scale_x + placement.offset_x
            down = (y + 0.5) * placement.scale_y + placement.offset_y
            if 0 <= across < spec.width and 0 <= down < spec.height:
                column = across * shape[-1] / spec.width - 0.5
                row = down * shape[-2] / spec.height - 0.5
                told[y, x] = tell(column, row)
    return told
