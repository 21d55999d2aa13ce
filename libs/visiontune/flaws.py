"""Puts flaws into the copper of a board.

There are three shapes, and each comes in copper where none belongs and in a lack of it: an island
(copper, pin-hole), a bump on an edge (spur, mousebite) and a bridge between two edges (short,
open). So each is drawn into a *void* that is beside a *solid*: for a lack of copper the copper
is the void.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from visiontune.layouts import SIZE, Mask, Points, chance

Shape = Literal["island", "bump", "bridge"]

_CONTACTS: dict[Shape, tuple[int, float]] = {
    "island": (0, 0),
    "bump": (1, 1),
    "bridge": (2, np.inf),
}
"""The least and the greatest number of places at which a flaw of this shape meets the solid."""
_NARROW, _WIDE = 3, 67
"""Pixels that a bridge spans at least, and how many more at most."""
_LOW = 4
"""Pixels below which a bump would look like a rough edge."""
_SEEN = 24
"""Changed pixels below which nobody would call it a flaw."""
_TRIES = 12
_EDGE, _INNER = 2, 9
"""Distance from the solid, in pixels, up to which is an edge, and from which an island has room."""
_STEEP = 12
"""Sum of differences of distance below which an edge has no direction; a straight one has 90."""
_REACH = 96
"""Pixels from a flaw's place to the end of what is looked at; no flaw reaches as far."""
_SIDE = 2 * _REACH + 1
_MIDDLE = np.full(2, _REACH, np.float64)
_KERNEL = np.ones((5, 5), np.uint8)
"""Copper that comes as near as two pixels counts as a contact."""


@dataclass(frozen=True)
class Change:
    """Pixels that turn solid."""

    pixels: Mask
    """(H, W) uint8: 1 where a pixel turns, nothing but flaw."""
    left: int
    top: int

    def apply(self, board: Mask, value: int) -> None:
        """Set the pixels of a board, (640, 640) uint8, to ``value``."""
        height, width = self.pixels.shape
        window = board[self.top : self.top + height, self.left : self.left + width]
        window[self.pixels != 0] = value


@dataclass(frozen=True)
class Edge:
    """A place on the solid's edge, in the middle of its surroundings."""

    outward: Points
    """(2,) unit vector x, y from the solid into the void."""
    room: int
    """Pixels of void from here along ``outward``."""


class Void:
    """Where a board, (640, 640) uint8, has no solid, and how far the solid is."""

    def __init__(self, solid: Mask) -> None:
        self._padded = np.pad(solid, _REACH)
        self._distance = distance = cv2.distanceTransform(1 - solid, cv2.DIST_L2, 3)
        self._edges = np.flatnonzero((distance > 0) & (distance < _EDGE))
        self._inner = np.flatnonzero(distance > _INNER)

    def change(self, rng: np.random.Generator, shape: Shape) -> Change | None:
        """Return a flaw of this shape; `None` where no place was found."""
        places = self._inner if shape == "island" else self._edges
        if not len(places):
            return None
        for place in rng.choice(places, _TRIES).tolist():
            y, x = divmod(place, SIZE)
            around = self._padded[y : y + _SIDE, x : x + _SIDE]
            drawn = self._draw(rng, shape, around, (x, y))
            if drawn is None:
                continue
            changed = drawn & (1 - around)
            changed[: max(_REACH - y, 0)] = changed[SIZE + _REACH - y :] = 0
            changed[:, : max(_REACH - x, 0)] = changed[:, SIZE + _REACH - x :] = 0
            if _fits(changed, around, shape):
                left, top, width, height = cv2.boundingRect(changed)
                pixels = changed[top : top + height, left : left + width]
                return Change(pixels, x - _REACH + left, y - _REACH + top)
        return None

    def _draw(
        self, rng: np.random.Generator, shape: Shape, around: Mask, place: tuple[int, int]
    ) -> Mask | None:
        x, y = place
        if shape == "island":
            reach = min(float(self._distance[y, x]) - 4, float(rng.uniform(4, 18)))
            return _blot(rng, _MIDDLE, np.eye(2) * reach)
        edge = self._edge(around, place)
        if edge is None:
            return None
        return _bump(rng, edge) if shape == "bump" else _bridge(rng, edge)

    def _edge(self, around: Mask, place: tuple[int, int]) -> Edge | None:
        x, y = place
        near = self._distance[max(y - 4, 0) : y + 5, max(x - 4, 0) : x + 5]
        if near.shape != (9, 9):
            return None
        slope = np.array([near[:, 5:].sum() - near[:, :4].sum(), near[5:].sum() - near[:4].sum()])
        steepness = np.linalg.norm(slope)
        if steepness < _STEEP:
            return None
        outward = slope / steepness
        ray = _pixels(_MIDDLE + np.arange(2, _REACH)[:, None] * outward)
        solid = around[ray[:, 1], ray[:, 0]] != 0
        return Edge(outward, int(solid.argmax()) + 2 if solid.any() else _REACH)


def _fits(changed: Mask, around: Mask, shape: Shape) -> bool:
    if cv2.countNonZero(changed) < _SEEN:
        return False
    contacts = cv2.connectedComponents(cv2.dilate(changed, _KERNEL) & around)[0] - 1
    least, most = _CONTACTS[shape]
    return least <= int(contacts) <= most


def _blot(rng: np.random.Generator, centre: Points, axes: Points) -> Mask:
    """Draw an ellipse, a stroke or a scribble within ``axes``, (2, 2): two half axes, x and y."""
    mask = np.zeros((_SIDE, _SIDE), np.uint8)
    if chance(rng, 0.35):
        angle = np.arange(12) * np.pi / 6
        ring = np.stack([np.cos(angle), np.sin(angle)], axis=1) * rng.uniform(0.6, 1, (12, 1))
        squeeze = rng.uniform(0.3, 1, 2)
        cv2.fillPoly(mask, [_pixels(centre + (ring * squeeze) @ axes)], 1)
        return mask
    least = float(np.linalg.norm(axes, axis=1).min())
    stroke = chance(rng, 0.6)
    thickness = int(rng.integers(2, 4 + int(least * 0.5))) if stroke else int(rng.integers(1, 4))
    points = rng.uniform(-1, 1, (int(rng.integers(2, 5) if stroke else rng.integers(5, 10)), 2))
    points *= max(0.3, 1 - thickness / 2 / max(least, 1))
    cv2.polylines(mask, [_pixels(centre + points @ axes)], False, 1, thickness)
    return mask


def _bump(rng: np.random.Generator, edge: Edge) -> Mask | None:
    """Draw what begins at the edge and ends well before the next one."""
    spare = max(3.0, 0.25 * edge.room)
    height = min(edge.room - spare, float(rng.uniform(5, 24)))
    if height < _LOW:
        return None
    along = np.array([-edge.outward[1], edge.outward[0]])
    width = rng.uniform(3, 14)
    axes = np.stack([edge.outward * (height / 2 + 1), along * width])
    mask = _blot(rng, _MIDDLE + edge.outward * (height / 2 - 1), axes)
    foot = _MIDDLE - 2 * edge.outward
    tip = _MIDDLE + edge.outward * height * rng.uniform(0.4, 0.9) + along * rng.normal(0, 3)
    thickness = int(rng.integers(2, max(3, int(height / 2))))
    cv2.polylines(mask, [_pixels(np.stack([foot, tip]))], False, 1, thickness)
    return mask


def _bridge(rng: np.random.Generator, edge: Edge) -> Mask | None:
    """Draw one strand or several from this edge to the opposite one."""
    # Most bridges are short.
    if not _NARROW < edge.room < _NARROW + _WIDE * rng.random() ** 1.5:
        return None
    along = np.array([-edge.outward[1], edge.outward[0]])
    mask = np.zeros((_SIDE, _SIDE), np.uint8)
    strands = 1 if chance(rng, 0.55) else int(rng.integers(2, 6))
    spread = rng.uniform(2, 9) if strands > 1 else 0.0
    slant = rng.normal(0, 0.25) * edge.room
    thickest = 12 if strands == 1 else 4
    heights = np.linspace(-3, edge.room + 3, 5)
    for _ in range(strands):
        sideways = rng.normal(0, 1.5, 5) + rng.normal(0, spread) + np.linspace(0, slant, 5)
        points = _MIDDLE + heights[:, None] * edge.outward + sideways[:, None] * along
        cv2.polylines(mask, [_pixels(points)], False, 1, int(rng.integers(2, thickest)))
    return mask


def _pixels(points: Points) -> NDArray[np.int32]:
    return np.rint(points).astype(np.int32)
