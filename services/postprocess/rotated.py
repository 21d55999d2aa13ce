"""Rectangles that are turned: their corners, and how far two of them agree.

A shape is ``x, y, width, height, angle``: the centre, the sides, and the radians by which it is
turned from the x axis towards the y axis, which is clockwise on an image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[Any]

_SIGNS = np.array(((-1, -1), (1, -1), (1, 1), (-1, 1))) / 2
"""From the centre to the corners, in sides: clockwise from the upper left one."""


def vertices(shapes: _Array) -> _Array:
    """Return the corners, clockwise, of (5, …) shapes: (4, 2, …)."""
    x, y, width, height, angle = shapes
    cosine, sine = np.cos(angle), np.sin(angle)
    across = np.multiply.outer(_SIGNS[:, 0], width)
    down = np.multiply.outer(_SIGNS[:, 1], height)
    return np.stack((x + across * cosine - down * sine, y + across * sine + down * cosine), axis=1)


def probabilistic(better: _Array, worse: _Array) -> tuple[_Array, _Array]:
    """Return the probabilistic intersection over union, and 1; an `Overlap` of shapes.

    The boxes stand for normal distributions, and the value is 1 minus their Hellinger distance
    (Murrugarra-Llerena et al., arXiv:2106.06072). Boxes without area agree with none.
    """
    a, b, c = (one + other for one, other in zip(_spread(better), _spread(worse), strict=True))
    x, y = better[0] - worse[0], better[1] - worse[1]
    sides = better[2] * better[3] * worse[2] * worse[3]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        determinant = a * b - c * c
        apart = (a * y * y + b * x * x - 2 * c * x * y) / determinant / 4
        unlike = np.log(determinant * 36 / sides) / 2
        distance = np.maximum(apart + unlike, 0)  # rounding may leave it below 0
        agreement = 1 - np.sqrt(1 - np.exp(-distance))
    return np.nan_to_num(agreement), np.ones(1)


def polygon(better: _Array, worse: _Array) -> tuple[_Array, _Array]:
    """Return intersection and union of the rectangles themselves; an `Overlap` of shapes."""
    reach = np.hypot(better[2], better[3]) + np.hypot(worse[2], worse[3])
    near = 2 * np.hypot(better[0] - worse[0], better[1] - worse[1]) < reach
    shared = np.zeros(near.shape)
    shared[near] = _shared(*(side[:, near] for side in np.broadcast_arrays(better, worse)))
    return shared, better[2] * better[3] + worse[2] * worse[3] - shared


def _spread(shapes: _Array) -> tuple[_Array, _Array, _Array]:
    """Return the covariance of points spread evenly over the shapes: xx, yy and xy."""
    width, height = shapes[2] ** 2 / 12, shapes[3] ** 2 / 12
    cosine, sine = np.cos(shapes[4]), np.sin(shapes[4])
    return (
        width * cosine**2 + height * sine**2,
        width * sine**2 + height * cosine**2,
        (width - height) * cosine * sine,
    )


def _shared(turned: _Array, frame: _Array) -> _Array:
    """Return the areas that pairs of (5, P) shapes share.

    In the ``frame``'s own coordinates, which begin at its upper left corner, the area is the
    integral of ``min(max(x, 0), width)`` over ``dy`` along the other's outline, as far as ``y``
    lies between 0 and ``height`` (Green's theorem). Nothing has to be sorted, and outlines that
    touch or coincide are no special case.
    """
    width, height = frame[2:4]
    x, y = vertices(_seen_from(frame, turned)).swapaxes(0, 1)
    next_x, next_y = np.roll(x, -1, axis=0), np.roll(y, -1, axis=0)
    rise = next_y - y
    slope = np.divide(next_x - x, rise, out=np.zeros_like(rise), where=rise != 0)
    start, end = np.clip(y, 0, height), np.clip(next_y, 0, height)
    means = _mean_clipped(x + (start - y) * slope, x + (end - y) * slope, width)
    area: _Array = np.maximum(((end - start) * means).sum(axis=0), 0)
    return area


def _seen_from(frame: _Array, shapes: _Array) -> _Array:
    """Return ``shapes`` in coordinates that begin at the frame's corner and follow its sides."""
    x, y = shapes[:2] - frame[:2]
    cosine, sine = np.cos(frame[4]), np.sin(frame[4])
    return np.stack(
        (
            x * cosine + y * sine + frame[2] / 2,
            y * cosine - x * sine + frame[3] / 2,
            shapes[2],
            shapes[3],
            shapes[4] - frame[4],
        )
    )


def _mean_clipped(start: _Array, end: _Array, most: _Array) -> _Array:
    """Return the mean of ``min(max(x, 0), most)`` for x from ``start`` to ``end``."""
    low, high = np.minimum(start, end), np.maximum(start, end)
    inner_low, inner_high = np.clip(low, 0, most), np.clip(high, 0, most)
    inside = (inner_high - inner_low) * (inner_high + inner_low) / 2
    above = np.maximum(high - np.maximum(low, most), 0) * most
    length = high - low
    mean: _Array = np.divide(inside + above, length, out=inner_low.copy(), where=length > 0)
    return mean
