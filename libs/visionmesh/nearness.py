"""Images that look alike: perceptual hashes, and the last one seen of each source."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta
from functools import cache

import numpy as np
from numpy.typing import NDArray

DIFFERENCE_SHAPE = (8, 9)
COSINE_SHAPE = (32, 32)
_KEPT = 8


def perceptual_hash(gray: NDArray[np.uint8]) -> int:
    """Return 64 bits that change little when the picture does, by its shape.

    ``(8, 9) uint8``: a difference hash, bit set where a pixel is darker than its right neighbour.
    ``(32, 32) uint8``: a cosine hash, bit set where one of the 8 x 8 lowest coefficients of the
    type-II cosine transform is above their median (the mean brightness is left out of it); slower,
    and steadier under noise and recompression. Bits run row by row, the first is the highest.
    The two kinds must not be compared with each other.

    Raises
    ------
    ValueError
        If the shape is another.
    """
    if gray.shape == DIFFERENCE_SHAPE:
        bits = gray[:, :-1] < gray[:, 1:]
    elif gray.shape == COSINE_SHAPE:
        basis = _cosines(COSINE_SHAPE[0])
        low = basis @ gray.astype(np.float64) @ basis.T
        bits = low > np.median(low.ravel()[1:])
    else:
        raise ValueError(f"{gray.shape} is neither {DIFFERENCE_SHAPE} nor {COSINE_SHAPE}")
    return int.from_bytes(np.packbits(bits).tobytes())


def distance(one: int, other: int) -> int:
    """Return in how many of their 64 bits two hashes differ."""
    return (one ^ other).bit_count()


@cache
def _cosines(size: int) -> NDArray[np.float64]:
    """Return the first rows of the orthonormal type-II cosine transform, ``(8, size) float64``."""
    frequency, sample = np.arange(_KEPT)[:, None], np.arange(size)[None, :]
    rows: NDArray[np.float64] = np.sqrt(2 / size) * np.cos(
        np.pi * (2 * sample + 1) * frequency / (2 * size)
    )
    rows[0] /= np.sqrt(2)
    return rows


@dataclass(frozen=True, slots=True)
class _Look:
    hash: int
    key: str
    since: float


class NearDuplicates:
    """Remembers how the last computed image of each source looked, and where its answer lies.

    A picture is compared with the one that was computed and not with one that was merely answered
    alike, so a slow change adds up until it is noticed. The ``max_sources`` seen last are kept,
    each for ``max_age``.
    """

    def __init__(
        self, *, max_sources: int = 1024, max_age: timedelta = timedelta(seconds=60)
    ) -> None:
        self._max_sources = max_sources
        self._max_age = max_age.total_seconds()
        self._looks: OrderedDict[str, _Look] = OrderedDict()

    def __len__(self) -> int:
        return len(self._looks)

    def match(self, source: str, hash: int, max_distance: int) -> str | None:
        """Return the key of the source's last image if this one differs in few enough bits."""
        look = self._looks.get(source)
        if look is None:
            return None
        if time.monotonic() - look.since > self._max_age:
            del self._looks[source]
            return None
        self._looks.move_to_end(source)
        return look.key if distance(look.hash, hash) <= max_distance else None

    def remember(self, source: str, hash: int, key: str) -> None:
        """Compare later images of ``source`` with this one."""
        self._looks[source] = _Look(hash, key, time.monotonic())
        self._looks.move_to_end(source)
        if len(self._looks) > self._max_sources:
            self._looks.popitem(last=False)
