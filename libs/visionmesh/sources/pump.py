"""Frames of a video on their way into a mesh."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta

import cv2
import numpy as np
from numpy.typing import NDArray

from visionmesh.client import Mesh
from visionmesh.contracts import Params, Priority
from visionmesh.errors import Code, Refused
from visionmesh.sources.similar import Look, Scene
from visionmesh.sources.video import Frame, Video

QUALITY = 90
"""Of the JPEGs that frames travel as."""
PATIENCE = timedelta(days=365)
"""With the frames of a file: they can wait."""

_PASSES = frozenset({Code.MESH_FULL, Code.MESH_UNREACHABLE})


@dataclass(slots=True)
class Tally:
    """What became of a video's frames so far."""

    published: int = 0
    similar: int = 0
    refused: int = 0
    dropped: int = 0
    """Those that nobody took in time, ``refused`` included: the mesh was full or away."""


class Pump:
    """Publishes the frames of one video, as events of one source, in their order.

    Those of a file wait while the mesh is full or away. Those of a stream or a camera are dropped
    then, and the next one is tried. With a ``scene``, frames that show nothing new are left out.
    """

    def __init__(
        self,
        *,
        mesh: Mesh,
        model: str,
        source: str,
        scene: Scene | None = None,
        params: Params | None = None,
        priority: Priority = Priority.NORMAL,
        deadline: timedelta | None = None,
    ) -> None:
        self._mesh = mesh
        self._model = model
        self._source = source
        self._scene = scene
        self._params = params
        self._priority = priority
        self._deadline = deadline
        self._session = secrets.token_hex(4)

    async def run(self, video: Video, *, each: Callable[[Tally, str | None], None]) -> Tally:
        """Publish until the video ends; tell ``each`` frame's id, if it is published.

        Raises
        ------
        ConfigurationError
            As `Video.frames`.
        Refused
            If the mesh does not take a frame for a reason that does not pass.
        """
        tally = Tally()
        async with aclosing(video.frames()) as frames:
            async for frame in frames:
                id = await self._send(frame, tally, waits=not video.is_live)
                tally.dropped = video.dropped + tally.refused
                each(tally, id)
        tally.dropped = video.dropped + tally.refused
        return tally

    async def _send(self, frame: Frame, tally: Tally, *, waits: bool) -> str | None:
        seen, image = await asyncio.to_thread(self._prepare, frame.pixels)
        if image is None:
            tally.similar += 1
            return None
        try:
            id = await self._mesh.publish(
                self._model,
                image,
                source=self._source,
                id=f"{self._source}-{self._session}-{frame.number}",
                params=self._params,
                deadline=self._deadline,
                priority=self._priority,
                retry_for=PATIENCE if waits else timedelta(0),
            )
        except Refused as error:
            if error.code not in _PASSES:
                raise
            tally.refused += 1
            return None
        if self._scene is not None and seen is not None:
            self._scene.remember(seen)
        tally.published += 1
        return id

    def _prepare(self, pixels: NDArray[np.uint8]) -> tuple[Look | None, bytes | None]:
        """Return the look and the JPEG of a frame; none of one that shows nothing new."""
        seen = None
        if self._scene is not None and (seen := self._scene.look(pixels)) is None:
            return None, None
        _, jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        return seen, jpeg.tobytes()
