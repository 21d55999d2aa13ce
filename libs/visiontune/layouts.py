"""Draws the copper of a circuit board: tracks, buses, pads, discs and pours, all apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.uint8]
Points = NDArray[np.float64]

SIZE = 640
"""Height and width of a board in pixels."""

_DIRECTIONS = np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], axis=1)
"""The eight directions, 45 degrees apart, in which tracks run: (8, 2) x, y."""
_DRILLED = 14
"""Half the size in pixels from which a pad may have a hole."""
_POURED = 0.2
"""Share of boards whose rest is filled with copper, apart from a clearance around each piece."""
_INVERTED = 0.2
"""Share of boards that are copper where others are bare: planes with narrow gaps."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The measures of one board in pixels: what its designer would call the design rules."""

    width: float
    """Of the usual track."""
    gap: float
    """The least distance between two pieces of copper."""
    crowd: int
    """How many pieces the designer tries to place."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Copper in one piece, or several that belong together, not yet on a board."""

    tracks: tuple[tuple[Points, float], ...] = ()
    """Polylines, (N, 2) x, y, with their widths."""
    areas: tuple[Points, ...] = ()
    """Filled polygons, (N, 2) x, y."""
    holes: tuple[tuple[Points, float], ...] = ()
    """Centres, (2,) x, y, and radii of drilled holes."""

    def draw(self, mask: Mask, value: int, *, grow: float = 0.0) -> None:
        """Draw the copper into ``mask`` with its outline moved outwards by ``grow`` pixels."""
        for points, width in self.tracks:
            thickness = max(1, round(width + 2 * grow))
            cv2.polylines(mask, [np.rint(points).astype(np.int32)], False, value, thickness)
        for polygon in self.areas:
            corners = np.rint(polygon).astype(np.int32)
            cv2.fillPoly(mask, [corners], value)
            if grow:
                cv2.polylines(mask, [corners], True, value, round(2 * grow))

    def drill(self, mask: Mask) -> None:
        for centre, radius in self.holes:
            x, y = np.rint(centre).astype(int).tolist()
            cv2.circle(mask, (x, y), round(radius), 0, -1)


def chance(rng: np.random.Generator, share: float) -> bool:
    """Return true in this share of the cases."""
    return bool(rng.random() < share)


def lay_copper(rng: np.random.Generator) -> Mask:
    """Return the copper of a flawless board: (640, 640) uint8, 1 is copper, 0 is not."""
    rules = _choose_rules(rng)
    copper = np.zeros((SIZE, SIZE), np.uint8)
    wanted = np.zeros_like(copper)
    pieces: list[Piece] = []
    makers: list[Callable[[np.random.Generator, Rules], Piece]] = [_net, _bus, _row, _disc, _area]
    favour = rng.dirichlet(np.full(len(makers), 0.8))
    for maker in rng.choice(len(makers), rules.crowd, p=favour):
        piece = makers[maker](rng, rules)
        wanted.fill(0)
        piece.draw(wanted, 1, grow=rules.gap)
        if not cv2.countNonZero(wanted & copper):
            piece.draw(copper, 1)
            pieces.append(piece)
    filling = rng.random()
    if filling < _POURED:
        copper = _pour(copper, pieces, rules.gap)
    for piece in pieces:
        piece.drill(copper)
    if filling > 1 - _INVERTED:
        copper = np.subtract(1, copper, dtype=np.uint8)
    return _etch(rng, copper)


def _choose_rules(rng: np.random.Generator) -> Rules:
    width = float(np.exp(rng.uniform(np.log(7), np.log(42))))
    gap = float(np.clip(width * rng.uniform(0.5, 1.6), 7, 40))
    return Rules(width=width, gap=gap, crowd=int(rng.integers(10, 90)))


def _pour(copper: Mask, pieces: list[Piece], gap: float) -> Mask:
    """Fill what lies farther than ``gap`` from every piece."""
    clearance = np.zeros_like(copper)
    for piece in pieces:
        piece.draw(clearance, 1, grow=gap)
    return np.where(clearance == 0, 1, copper).astype(np.uint8)


def _etch(rng: np.random.Generator, copper: Mask) -> Mask:
    """Round the corners and roughen the edges, as etching and a camera's threshold do."""
    soft = cv2.GaussianBlur(copper.astype(np.float32), (0, 0), rng.uniform(0.8, 2.2))
    grain = rng.standard_normal((SIZE // 2, SIZE // 2), dtype=np.float32)
    grain *= np.float32(rng.uniform(0, 0.16))
    # Far from an edge no grain may tear a hole.
    np.clip(grain, -0.4, 0.4, out=grain)
    soft += cv2.resize(grain, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    etched: Mask = np.greater(soft, 0.5).astype(np.uint8)
    return etched


def _path(rng: np.random.Generator, rules: Rules, *, turns: int) -> Points:
    """Return a polyline whose bends are 45 degrees, and now and then 90."""
    heading = int(rng.integers(8))
    headings = heading + np.cumsum(rng.choice([-2, -1, 1, 2], turns, p=[0.15, 0.35, 0.35, 0.15]))
    steps = _DIRECTIONS[np.append(heading, headings) % 8]
    lengths = rng.uniform(40, 300, (turns + 1, 1))
    start = rng.uniform(0, SIZE, 2)
    bends: Points = start + np.cumsum(steps * lengths, axis=0)
    return np.vstack([start, bends])


def _outline(rng: np.random.Generator, centre: Points, reach: Points) -> Points:
    """Return a pad's outline: a disc, a rectangle, or one with its corners cut or rounded."""
    if chance(rng, 0.4):
        angle = np.arange(32) * np.pi / 16
        disc: Points = centre + reach.max() * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return disc
    cut = rng.choice([0.0, 0.3, 0.6]) * reach.min()
    x, y = reach
    corners = np.array([[x - cut, y], [x, y - cut], [x, cut - y], [x - cut, -y]], dtype=np.float64)
    outline: Points = centre + np.vstack([corners, -corners])
    return outline


def _turn(points: Points, angle: float) -> Points:
    """Rotate about the origin by ``angle`` radians."""
    cosine, sine = np.cos(angle), np.sin(angle)
    turned: Points = points @ np.array([[cosine, sine], [-sine, cosine]])
    return turned


def _net(rng: np.random.Generator, rules: Rules) -> Piece:
    """A track with pads at its ends, drilled or not."""
    width = rules.width * rng.uniform(0.7, 1.3)
    path = _path(rng, rules, turns=int(rng.integers(0, 5)))
    areas, holes = [], []
    for end in (path[0], path[-1]):
        if chance(rng, 0.7):
            reach = np.maximum(width * rng.uniform(0.8, 1.8, 2), 9)
            areas.append(_outline(rng, end, reach))
            if chance(rng, 0.5) and reach.min() > _DRILLED:
                holes.append((end, reach.min() * rng.uniform(0.3, 0.5)))
    return Piece(tracks=((path, width),), areas=tuple(areas), holes=tuple(holes))


def _bus(rng: np.random.Generator, rules: Rules) -> Piece:
    """Parallel tracks that bend together."""
    path = _path(rng, rules, turns=int(rng.integers(0, 4)))
    steps = np.diff(path, axis=0)
    normals = steps[:, ::-1] * [-1, 1] / np.linalg.norm(steps, axis=1, keepdims=True)
    before, after = np.vstack([normals[:1], normals]), np.vstack([normals, normals[-1:]])
    # The mitre joint: where the lines beside two segments meet.
    mitre = (before + after) / (1 + np.sum(before * after, axis=1, keepdims=True))
    pitch = rules.width + rules.gap
    lines = [path + mitre * pitch * line for line in range(int(rng.integers(2, 14)))]
    # Inside a bend there is no room for many: a line that would run backwards ends the bus.
    forward = [bool((np.sum(np.diff(line, axis=0) * steps, axis=1) > 0).all()) for line in lines]
    count = forward.index(False) if False in forward else len(lines)
    return Piece(tracks=tuple((line, rules.width) for line in lines[:count]))


def _row(rng: np.random.Generator, rules: Rules) -> Piece:
    """Equal pads in a row, as under a chip, with or without a track that leaves each."""
    reach = np.maximum(rules.width * rng.uniform(0.6, 2.5, 2), 7)
    if chance(rng, 0.3):  # the fingers of a connector
        reach[1] *= rng.uniform(2, 4)
    count = int(rng.integers(2, 12))
    shape = _outline(rng, np.zeros(2), reach)
    pitch = np.ptp(shape[:, 0]) + rules.gap * rng.uniform(1, 1.5)
    angle = rng.integers(4) * np.pi / 2
    if chance(rng, 0.2):  # a chip mounted askew
        angle += rng.uniform(-0.5, 0.5)
    start = rng.uniform(0, SIZE, 2)
    centres = np.stack([np.arange(count) * pitch, np.zeros(count)], axis=1)
    areas = tuple(start + _turn(shape + centre, angle) for centre in centres)
    if chance(rng, 0.5):
        return Piece(areas=areas)
    leads = [np.stack([c, c + np.array([0, reach.max() * rng.uniform(2, 6)])]) for c in centres]
    width = min(rules.width, 2 * reach[0])
    return Piece(areas=areas, tracks=tuple((start + _turn(at, angle), width) for at in leads))


def _disc(rng: np.random.Generator, rules: Rules) -> Piece:
    """A round pad, often drilled."""
    radius = max(rules.width * rng.uniform(0.8, 3), 10)
    centre = rng.uniform(0, SIZE, 2)
    angle = np.arange(64) * np.pi / 32
    ring = centre + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    drilled = chance(rng, 0.5) and radius > _DRILLED
    holes = ((centre, radius * rng.uniform(0.25, 0.6)),) if drilled else ()
    return Piece(areas=(ring,), holes=holes)


def _area(rng: np.random.Generator, rules: Rules) -> Piece:
    """A large pad or a plane with slanted edges, at times drilled."""
    reach = rng.uniform(1, 5, 2) * max(rules.width, 16)
    centre = rng.uniform(0, SIZE, 2)
    angle = rng.uniform(-0.6, 0.6) if chance(rng, 0.3) else 0.0
    area = centre + _turn(_outline(rng, np.zeros(2), reach), angle)
    drilled = chance(rng, 0.3)
    holes = ((centre, rng.uniform(5, 0.5 * reach.min() + 5)),) if drilled else ()
    return Piece(areas=(area,), holes=holes)
