"""Results as pictures: the image with what was recognised drawn on it."""

from __future__ import annotations

import asyncio

import cv2
import numpy as np
from nats.aio.client import Client

from services.ingest.accepting import preferred
from visionmesh.contracts import Result
from visionmesh.drawing import draw
from visionmesh.errors import Code, Reject
from visionmesh.heatmaps import HeatmapStore

JSON = "application/json"
_ENDINGS = {"image/jpeg": ".jpg", "image/png": ".png"}
PICTURES = tuple(_ENDINGS)
_ANSWERS = {kind: kind for kind in (JSON, *PICTURES)} | {"*/*": JSON, "application/*": JSON}
AT_ONCE = 2
"""Pictures that are drawn: each takes a core, and several times its pixels."""


def wanted(accept: str | None) -> str:
    """Return what an ``Accept`` header wants most: JSON, unless it names a picture's type.

    Ranges such as ``*/*`` are answered with JSON, as is what we do not make.
    """
    if accept is None or "image/" not in accept.lower():
        return JSON
    return preferred(accept, _ANSWERS) or JSON


class Pictures:
    """Draws results, a few at a time."""

    def __init__(self, *, nc: Client) -> None:
        self._heatmaps = HeatmapStore(nc)
        self._places = asyncio.Semaphore(AT_ONCE)

    async def draw(self, image: bytes, result: Result, kind: str) -> bytes:
        """Return ``image`` with ``result`` drawn on it, encoded as ``kind``.

        A heat-map that the mesh has no more is left out.

        Raises
        ------
        Reject
            (unsupported_format) if the image's format is one that OpenCV does not read.
        Retry
            (mesh_unreachable) if its heat-map cannot be had now.
        """
        heatmap = None
        if result.heatmap is not None:
            heatmap = await self._heatmaps.fetch(result.heatmap.sha256)
        async with self._places:
            return await asyncio.to_thread(_drawn, image, result, _ENDINGS[kind], heatmap)


def _drawn(image: bytes, result: Result, ending: str, heatmap: bytes | None) -> bytes:
    try:
        pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # it has more pixels than OpenCV takes
        pixels = None
    if pixels is None:
        raise Reject(Code.UNSUPPORTED_FORMAT, "This image cannot be drawn on; ask for JSON.")
    _, encoded = cv2.imencode(ending, draw(pixels.astype(np.uint8), result, heatmap=heatmap))
    return encoded.tobytes()
