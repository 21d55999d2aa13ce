"""Draws photos of circuit boards with flaws, and says where the flaws are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from visiontune.flaws import Change, Shape, Void
from visiontune.layouts import SIZE, Mask, lay_copper

LABELS = ("open", "short", "mousebite", "spur", "copper", "pin-hole")
"""The kinds of flaws; a label is an index into them."""

_SHAPES: tuple[tuple[Shape, bool], ...] = (
    ("bridge", False),
    ("bridge", True),
    ("bump", False),
    ("bump", True),
    ("island", True),
    ("island", False),
)
"""By label: the flaw's shape, and whether it is copper (or the lack of it)."""
_MARGIN = 9
"""Pixels between a flaw and its box on each side: who inspects a board marks it with air around."""
_COPPER, _BARE = 0, 255
"""Grey levels: the copper is dark."""


class Board(NamedTuple):
    """A photo of a board and the flaws on it."""

    image: NDArray[np.uint8]
    """(640, 640, 3) uint8; its three channels are equal."""
    boxes: NDArray[np.float32]
    """(N, 4) float32 ``x1, y1, x2, y2`` in pixels: each flaw with a margin of 9 pixels."""
    labels: NDArray[np.intp]
    """(N,) indices into `LABELS`."""


def draw_board(rng: np.random.Generator, *, flaws: int | None = None) -> Board:
    """Return a board that nobody has seen, with up to ``flaws`` flaws, 3 to 12 unless told.

    The same state of ``rng`` gives the same board. Fewer flaws fit on a board with little copper.
    """
    return draw_pair(rng, flaws=flaws)[0]


def draw_pair(
    rng: np.random.Generator, *, flaws: int | None = None
) -> tuple[Board, NDArray[np.uint8]]:
    """Return a board and its template: the same photo, (640, 640, 3) uint8, without the flaws."""
    copper = lay_copper(rng)
    wanted = int(rng.integers(3, 13)) if flaws is None else flaws
    flawed, boxes, labels = _spoil(rng, copper, wanted)
    found = np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.intp)
    return Board(_photo(flawed), *found), _photo(copper)


def _spoil(
    rng: np.random.Generator, copper: Mask, flaws: int
) -> tuple[Mask, list[tuple[int, int, int, int]], list[int]]:
    """Return the copper with flaws, their boxes and their labels."""
    voids = {True: Void(copper), False: Void(1 - copper)}
    flawed, taken = copper.copy(), np.zeros(copper.shape, np.bool_)
    boxes, labels = [], []
    for label in rng.integers(len(LABELS), size=flaws).tolist():
        shape, adds = _SHAPES[label]
        change = voids[adds].change(rng, shape)
        if change is None:
            continue
        x1, y1, x2, y2 = box = _box(change)
        if taken[y1:y2, x1:x2].any():
            continue
        taken[y1:y2, x1:x2] = True
        change.apply(flawed, adds)
        boxes.append(box)
        labels.append(label)
    return flawed, boxes, labels


def _box(change: Change) -> tuple[int, int, int, int]:
    height, width = change.pixels.shape
    return (
        max(change.left - _MARGIN, 0),
        max(change.top - _MARGIN, 0),
        min(change.left + width + _MARGIN, SIZE),
        min(change.top + height + _MARGIN, SIZE),
    )


def _photo(copper: Mask) -> NDArray[np.uint8]:
    grey = np.where(copper, _COPPER, _BARE).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
