"""Frames of one source that look alike: answered with the last one's result, where asked for."""

from __future__ import annotations

import asyncio

import numpy as np

from visionmesh.contracts import Reference
from visionmesh.nearness import NearDuplicates, perceptual_hash


class NearFrames:
    """Remembers how the last frames of each source looked."""

    def __init__(self) -> None:
        self._seen = NearDuplicates()

    async def match(
        self, reference: Reference, image: bytes, *, asked: str, distance: int
    ) -> str | None:
        """Return the result key of a frame of this source within ``distance`` bits, if any.

        Only frames of which the same was ``asked`` are compared. If none is near, this frame is
        the one that later ones are compared with.
        """
        assert reference.result_key is not None
        look = await asyncio.to_thread(_look, image)
        if look is None:
            return None
        of = f"{reference.model}/{reference.version}/{reference.source}/{asked}"
        known = self._seen.match(of, look, distance)
        if known is None:
            self._seen.remember(of, look, reference.result_key)
        return known


def _look(image: bytes) -> int | None:
    """Return the perceptual hash, or `None` for what preprocess will have to refuse."""
    import cv2  # noqa: PLC0415 - 40 MB that only models with this option need

    try:
        gray = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
    except cv2.error:  # more pixels than OpenCV takes
        return None
    if gray is None:
        return None
    return perceptual_hash(cv2.resize(gray, (32, 32), interpolation=cv2.INTER_AREA))
