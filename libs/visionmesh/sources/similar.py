"""Frames that show nothing new."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

CELLS = 32
"""Along each side of a frame: what fills a cell of them is seen when it comes or goes."""
LEVELS = 10.0
"""Of 256, by which one of its means must change: several times what noise and compression do."""

Look = NDArray[np.float32]
"""``(32, 32, 3)``, BGR: the mean colour of each cell."""


class Scene:
    """What a camera showed when a frame of it was last sent.

    A frame is compared with that one and not with the one before it, so a slow change adds up
    until it is noticed. Where all grows lighter or darker alike, nothing is new.
    """

    def __init__(self, *, levels: float = LEVELS) -> None:
        self._levels = levels
        self._sent: Look | None = None

    def look(self, pixels: NDArray[np.uint8]) -> Look | None:
        """Return a frame ``(H, W, 3) uint8`` BGR in short, or `None` if it shows nothing new."""
        small = cv2.resize(pixels, (CELLS, CELLS), interpolation=cv2.INTER_AREA)
        seen: Look = small.astype(np.float32)
        if self._sent is not None:
            change = seen - self._sent
            if np.abs(change - np.median(change, axis=(0, 1))).max() <= self._levels:
                return None
        return seen

    def remember(self, seen: Look) -> None:
        """Compare later frames with this one."""
        self._sent = seen
