"""Maps over the input, such as scores of pixels, and where the original's pixels lie in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from services.postprocess.decoders.protocol import Array
from services.postprocess.features import FeaturesError
from visionmesh.contracts import Placement
from visionmesh.models.spec import InputSpec

_STRIP_PIXELS = 1 << 18
"""Worked on at once: a megabyte in float32, so that an original of any size needs little memory."""


class Axis(NamedTuple):
    """Where pixels of the original lie in a map, along one direction.

    A pixel between two cells takes its share of both: bilinear, with the centres of pixels and
    cells half a unit from their edges, and the outermost cells going on to the map's edge.
    """

    first: int
    """The first pixel of the original; one that lies outside the network's input is left out."""
    low: Array
    high: Array
    """Cells before and behind each pixel, int64."""
    weight: Array
    """Of the cell behind, float32."""

    @property
    def last(self) -> int:
        """One more than the last pixel."""
        return self.first + len(self.low)

    @property
    def nearest(self) -> Array:
        """The cell that each pixel's centre lies in."""
        return np.where(self.weight < 0.5, self.low, self.high)  # noqa: PLR2004 - the middle

    def part(self, first: int, last: int) -> Axis:
        """Return the pixels from ``first`` to before ``last``, as far as they are here."""
        begin, end = (min(max(at - self.first, 0), len(self.low)) for at in (first, last))
        chosen = slice(begin, max(begin, end))
        return Axis(self.first + begin, self.low[chosen], self.high[chosen], self.weight[chosen])

    def cut(self) -> tuple[slice, Axis]:
        """Return the cells that these pixels need, and where the pixels lie in those alone."""
        first, last = int(self.low[0]), int(self.high[-1]) + 1
        return slice(first, last), self._replace(low=self.low - first, high=self.high - first)

    def strips(self, width: int) -> Iterator[Axis]:
        """Yield these rows in parts that are worked on at once when each has ``width`` pixels."""
        rows = max(1, _STRIP_PIXELS // max(1, width))
        for first in range(self.first, self.last, rows):
            yield self.part(first, first + rows)


@dataclass(frozen=True)
class Original:
    """An image of ``width`` by ``height`` pixels, and how it lies in the network's input.

    A map's shape ends in its rows and columns, which cover the whole input.
    """

    spec: InputSpec
    placement: Placement
    width: int
    height: int

    def axes(self, shape: tuple[int, ...]) -> tuple[Axis, Axis]:
        """Return where the original's rows and columns lie in a map of this shape."""
        (rows, columns), place = shape[-2:], self.placement
        return (
            _axis(self.height, place.scale_y, place.offset_y, rows, self.spec.height),
            _axis(self.width, place.scale_x, place.offset_x, columns, self.spec.width),
        )

    def cells(self, plane: Array) -> Array:
        """Return the part of a map whose cells have their centres in the original; at least one."""
        place = self.placement
        down, across = self.height * place.scale_y, self.width * place.scale_x
        rows, columns = (
            (np.arange(count) + 0.5) * (extent / count)
            for count, extent in zip(plane.shape, (self.spec.height, self.spec.width), strict=True)
        )
        cells: Array = plane[
            _between(rows, place.offset_y, place.offset_y + down),
            _between(columns, place.offset_x, place.offset_x + across),
        ]
        return cells

    def as_fine_as(self, shape: tuple[int, ...], *, most: int) -> Original:
        """Return the same with pixels as large as the map's cells, ``most`` along each side."""
        across = self.width * self.placement.scale_x * shape[-1] / self.spec.width
        down = self.height * self.placement.scale_y * shape[-2] / self.spec.height
        shrink = min(1.0, most / max(across, down))
        width, height = max(1, round(across * shrink)), max(1, round(down * shrink))
        scales = {
            "scale_x": self.placement.scale_x * self.width / width,
            "scale_y": self.placement.scale_y * self.height / height,
        }
        return Original(self.spec, self.placement.model_copy(update=scales), width, height)


def sample(plane: Array, down: Axis, across: Axis) -> Array:
    """Return the values of ``plane`` (h, w) at some rows and columns, float32."""
    rows, down = down.cut()
    band = plane[rows].astype(np.float32, copy=False)
    left = band[:, across.low]
    left += (band[:, across.high] - left) * across.weight
    upper: Array = left[down.low]
    upper += (left[down.high] - upper) * down.weight[:, None]
    return upper


def require_map(values: Array, kind: str, dimensions: int) -> Array:
    """Return ``values``; raise `FeaturesError` if they are no maps of that kind."""
    if values.dtype.kind != kind or values.ndim != dimensions or not values.size:
        raise FeaturesError("the features are not those of a map")
    return values


def _axis(count: int, scale: float, offset: float, cells: int, extent: int) -> Axis:
    centers = (np.arange(count) + 0.5) * scale + offset
    seen = _between(centers, 0, extent)
    at = (centers[seen] * (cells / extent) - 0.5).clip(0, cells - 1)
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, cells - 1)
    return Axis(seen.start, low, high, (at - low).astype(np.float32))


def _between(centers: Array, begin: float, end: float) -> slice:
    """Return where the ascending ``centers`` lie between the two; at least the one nearest."""
    within = np.flatnonzero((centers >= begin) & (centers < end))
    if not len(within):
        within = np.abs(centers - (begin + end) / 2).argmin(axis=0, keepdims=True)
    return slice(int(within[0]), int(within[-1]) + 1)
