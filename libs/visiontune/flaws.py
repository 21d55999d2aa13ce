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

from visiontune.layouts import SIZE, Mask, Points

Shape = Literal["island", "bump", "bridge"]

_CONTACTS: dict[Shape, tuple[int, float]] = {
    "island": (0, 0),
    "bump": (1, 1),
    "bridge": (2, np.inf),
}
"""The least and the greatest number of places at which a flaw of this shape meets the solid."""
_SEEN = 24
"""Changed pixels below which nobody would call it a flaw."""
_TRIES = 12
_KERNEL = np.ones((5, 5), np.uint8)
"""Copper that comes as near as two pixels counts as a contact."""


@dataclass(frozen=True)
class Edge:
    """A place on the solid's edge."""

    at: Points
    """(2,) x, y of the void's first pixel."""
    outward: Points
    """(2,) unit vector from the solid into the void."""
    room: int
    """Pixels of void from here along ``outward``."""


class Void:
    """Where a board has no solid, and how far the solid is."""

    def __init__(self, solid: Mask) -> None:
        self._solid = solid
        self._distance = cv2.distanceTransform(1 - solid, cv2.DIST_L2, 5)
        self._smooth = cv2.GaussianBlur(self._distance, (0, 0), 2.5)
        self._edges = np.flatnonzero((self._distance > 0) & (self._distance < 2))  # noqa: PLR2004
        self._inner = np.flatnonzero(self._distance > 9)  # noqa: PLR2004

    def change(self, rng: np.random.Generator, shape: Shape) -> NDArray[np.bool_] | None:
        """Return the pixels, (640, 640), that turn solid; `None` where no place was found."""
        for _ in range(_TRIES):
            drawn = self._draw(rng, shape)
            if drawn is None:
                continue
            changed = (drawn & (1 - self._solid)).astype(np.uint8)
            if self._fits(changed, shape):
                return changed.astype(np.bool_)
        return None

    def _draw(self, rng: np.random.Generator, shape: Shape) -> Mask | None:
        if shape == "island":
            return self._island(rng)
        edge = self._edge(rng)
        if edge is None:
            return None
        return _bump(rng, edge) if shape == "bump" else _bridge(rng, edge)

    def _fits(self, changed: Mask, shape: Shape) -> bool:
        x, y, width, height = cv2.boundingRect(changed)
        if cv2.countNonZero(changed) < _SEEN:
            return False
        window = (slice(max(y - 3, 0), y + height + 3), slice(max(x - 3, 0), x + width + 3))
        meeting = cv2.dilate(changed[window], _KERNEL) & self._solid[window]
        contacts = cv2.connectedComponents(meeting)[0] - 1
        least, most = _CONTACTS[shape]
        return least <= contacts <= most

    def _island(self, rng: np.random.Generator) -> Mask | None:
        if not len(self._inner):
            return None
        y, x = divmod(int(rng.choice(self._inner)), SIZE)
        reach = min(float(self._distance[y, x]) - 4, float(rng.uniform(4, 18)))
        return _blot(rng, np.array([x, y], np.float64), np.eye(2) * reach)

    def _edge(self, rng: np.random.Generator) -> Edge | None:
        if not len(self._edges):
            return None
        y, x = divmod(int(rng.choice(self._edges)), SIZE)
        if not (2 < x < SIZE - 3 and 2 < y < SIZE - 3):
            return None
        near = self._smooth[y - 2 : y + 3, x - 2 : x + 3]
        slope = np.array([near[:, 3:].sum() - near[:, :2].sum(), near[3:].sum() - near[:2].sum()])
        steepness = np.linalg.norm(slope)
        if steepness < 1:
            return None
        at, outward = np.array([x, y], np.float64), slope / steepness
        ray = np.rint(at + np.arange(2, 96)[:, None] * outward).astype(int)
        ray = ray[((ray >= 0) & (ray < SIZE)).all(axis=1)]
        solid = self._solid[ray[:, 1], ray[:, 0]] != 0
        room = int(solid.argmax()) + 2 if solid.any() else len(ray)
        return Edge(at, outward, room)


def _blot(rng: np.random.Generator, centre: Points, axes: Points) -> Mask:
    """Draw an ellipse, a stroke or a scribble within ``axes``, (2, 2): two half axes, x and y."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    kind = rng.random()
    if kind < 0.35:  # noqa: PLR2004
        angle = np.arange(12) * np.pi / 6
        ring = np.stack([np.cos(angle), np.sin(angle)], axis=1) * rng.uniform(0.6, 1, (12, 1))
        squeeze = rng.uniform(0.3, 1, 2)
        cv2.fillPoly(mask, [_pixels(centre + (ring * squeeze) @ axes)], 1)
        return mask
    least = float(np.linalg.norm(axes, axis=1).min())
    stroke = kind < 0.75  # noqa: PLR2004
    thickness = int(rng.integers(2, 4 + int(least * 0.5))) if stroke else int(rng.integers(1, 4))
    points = rng.uniform(-1, 1, (int(rng.integers(2, 5) if stroke else rng.integers(5, 10)), 2))
    points *= max(0.3, 1 - thickness / 2 / max(least, 1))
    cv2.polylines(mask, [_pixels(centre + points @ axes)], False, 1, thickness)
    return mask


def _bump(rng: np.random.Generator, edge: Edge) -> Mask | None:
    """Draw what begins at the edge and ends well before the next one."""
    spare = max(3.0, 0.25 * edge.room)
    height = min(edge.room - spare, float(rng.uniform(5, 24)))
    if height < 4:  # noqa: PLR2004
        return None
    along = np.array([-edge.outward[1], edge.outward[0]])
    width = rng.uniform(3, 14)
    axes = np.stack([edge.outward * (height / 2 + 1), along * width])
    mask = _blot(rng, edge.at + edge.outward * (height / 2 - 1), axes)
    foot = edge.at - 2 * edge.outward
    tip = edge.at + edge.outward * height * rng.uniform(0.4, 0.9) + along * rng.normal(0, 3)
    thickness = int(rng.integers(2, max(3, int(height / 2))))
    cv2.polylines(mask, [_pixels(np.stack([foot, tip]))], False, 1, thickness)
    return mask


def _bridge(rng: np.random.Generator, edge: Edge) -> Mask | None:
    """Draw one strand or several from this edge to the opposite one."""
    if not 3 < edge.room < 4 + 66 * rng.random() ** 1.5:
        return None
    along = np.array([-edge.outward[1], edge.outward[0]])
    mask = np.zeros((SIZE, SIZE), np.uint8)
    strands = 1 if rng.random() < 0.55 else int(rng.integers(2, 6))  # noqa: PLR2004
    spread = rng.uniform(2, 9) if strands > 1 else 0.0
    slant = rng.normal(0, 0.25) * edge.room
    thickest = 12 if strands == 1 else 4
    heights = np.linspace(-3, edge.room + 3, 5)
    for _ in range(strands):
        sideways = rng.normal(0, 1.5, 5) + rng.normal(0, spread) + np.linspace(0, slant, 5)
        points = edge.at + heights[:, None] * edge.outward + sideways[:, None] * along
        cv2.polylines(mask, [_pixels(points)], False, 1, int(rng.integers(2, thickest)))
    return mask


def _pixels(points: Points) -> NDArray[np.int32]:
    return np.rint(points).astype(np.int32)
