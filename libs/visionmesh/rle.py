"""Masks run-length encoded as COCO does: counts column by column, and their compressed form.

A mask is told as the lengths of its runs of background and foreground in turn, background first.
In the compressed form each count from the fourth on is the difference to the one two before it, and
each number becomes groups of five bits, the lowest first, as the characters from ``0`` to ``o``:
``0x20`` says that another group follows, and the last group's ``0x10`` is the sign (the format of
`rleToString` in COCO's ``maskApi.c``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionmesh.contracts import Rle

_BITS = 5
_GROUP = (1 << _BITS) - 1
_SIGN = 1 << (_BITS - 1)
_MORE = 1 << _BITS
_FIRST = ord("0")
_LONGEST = 8
"""Groups of one number: 39 bits and a sign, far more than the pixels of any image."""

_Integers = NDArray[np.int64]


def encode(
    mask: NDArray[np.bool_],
    *,
    size: tuple[int, int] | None = None,
    corner: tuple[int, int] = (0, 0),
) -> Rle:
    """Return ``mask`` (H, W) bool as runs over an image of ``size`` (height, width).

    Without ``size`` the mask is the whole image; else ``corner`` (x, y) says where in the image its
    upper left pixel lies, and all around it is background.
    """
    height, width = size or mask.shape
    # Column by column with background at both ends: so each run starts and ends within its column.
    columns = np.zeros((mask.shape[1], mask.shape[0] + 2), bool)
    columns[:, 1:-1] = mask.T
    pixels = columns.reshape(-1)
    changes = np.flatnonzero(pixels[1:] != pixels[:-1])
    across, down = np.divmod(changes, columns.shape[1])
    edges = (across + corner[0]) * height + down + corner[1]
    starts, ends = edges[0::2], edges[1::2]
    # A run that ends a full column goes on in the next.
    joined = starts[1:] == ends[:-1]
    starts = starts[np.concatenate(([True], ~joined))[: len(starts)]]
    ends = ends[np.concatenate((~joined, [True]))[: len(ends)]]
    return _told(starts, ends, (height, width))


def encode_classes(classes: NDArray[Any]) -> Iterator[tuple[int, int, Rle]]:
    """Yield class, number of pixels and mask of each class in the map (H, W) int, ascending."""
    height, width = classes.shape
    pixels = classes.T.reshape(-1)
    starts = np.concatenate(([0], np.flatnonzero(pixels[1:] != pixels[:-1]) + 1))
    ends = np.append(starts[1:], pixels.size)
    found = pixels[starts]
    for value in np.unique(found).tolist():
        own = found == value
        area = int((ends[own] - starts[own]).sum())
        yield value, area, _told(starts[own], ends[own], (height, width))


def decode(rle: Rle) -> NDArray[np.bool_]:
    """Return the mask (H, W) bool; raise `ValueError` if ``rle`` does not tell its ``size``."""
    counts = _parse(rle.counts)
    height, width = rle.size
    if (counts < 0).any() or counts.sum() != height * width:
        raise ValueError(f"the counts do not tell a mask of {height} by {width} pixels")
    foreground = np.arange(len(counts)) % 2 == 1
    return np.repeat(foreground, counts).reshape(width, height).T


def _told(starts: _Integers, ends: _Integers, size: tuple[int, int]) -> Rle:
    edges = np.stack((starts, ends), axis=1).reshape(-1)
    counts = np.diff(edges, prepend=0, append=size[0] * size[1])
    if len(edges) and counts[-1] == 0:
        counts = counts[:-1]
    return Rle(size=size, counts=_compress(counts))


def _compress(counts: _Integers) -> str:
    numbers = counts.copy()
    numbers[3:] -= counts[1:-2]
    shifts = _BITS * np.arange(_LONGEST)
    groups = numbers[:, None] >> shifts & _GROUP
    # A number of n groups lies between -16 * 32**(n - 1) and 16 * 32**(n - 1) - 1.
    largest = (_SIGN << shifts) - 1
    follows = (numbers[:, None] > largest) | (numbers[:, None] < ~largest)
    told = np.concatenate((np.ones_like(follows[:, :1]), follows[:, :-1]), axis=1)
    characters = groups + follows * _MORE + _FIRST
    return characters[told].astype(np.uint8).tobytes().decode("ascii")


def _parse(text: str) -> _Integers:
    codes = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int64) - _FIRST
    if not len(codes) or (codes < 0).any() or (codes >= 2 * _MORE).any() or codes[-1] & _MORE:
        raise ValueError("the counts are not COCO's compressed run lengths")
    last = np.flatnonzero(codes < _MORE)
    first = np.concatenate(([0], last[:-1] + 1))
    lengths = last - first + 1
    if lengths.max() > _LONGEST:
        raise ValueError("a count is larger than any image")
    places = np.arange(len(codes)) - np.repeat(first, lengths)
    numbers = np.add.reduceat((codes & _GROUP) << (_BITS * places), first)
    numbers -= ((codes[last] & _SIGN) != 0) * (1 << (_BITS * lengths))
    for chain in (numbers[1::2], numbers[2::2]):
        np.cumsum(chain, out=chain)
    return numbers
