"""Frames of video files, network streams and cameras, read with OpenCV."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import cv2
import numpy as np
from numpy.typing import NDArray

from visionmesh.errors import Code, ConfigurationError
from visionmesh.sources.names import is_camera, is_url, without_password
from visionmesh.sources.slot import Slot

ANSWERS_WITHIN = timedelta(seconds=5)
"""How long a stream may take to open, and to bring its next frame."""
FIRST_PAUSE = timedelta(milliseconds=500)
LONGEST_PAUSE = timedelta(seconds=30)
"""Before a stream that was lost is opened again."""

_STREAMS = frozenset({"rtsp", "rtsps", "rtmp", "rtp", "srt", "udp", "tcp"})
"""Schemes of what never ends; over HTTP there are both files and streams."""

log = logging.getLogger(__name__)


class Frame(NamedTuple):
    """One picture of a video."""

    number: int
    """Of those that the frame rate left, from 0."""
    pixels: NDArray[np.uint8]
    """``(H, W, 3)``, BGR."""


class Video:
    """A video that is read in a thread of its own.

    A file is read at the pace of who takes its frames: all come, or with ``fps`` so many of each
    second of the video. Streams and cameras do not wait: a frame that nobody took gives way to the
    next one and is counted as `dropped`. One that is lost is opened again, after ever longer
    pauses, for ever; ``told`` hears of it, in the thread.
    """

    def __init__(
        self, address: str, *, fps: float | None = None, told: Callable[[str], None] = log.warning
    ) -> None:
        self._address = address
        self._fps = fps
        self._told = told
        self._slot: Slot[Frame] | None = None
        self._number = 0

    @property
    def is_live(self) -> bool:
        """Whether it goes on when nobody looks; known once there is a frame."""
        return self._slot is not None and not self._slot.waits

    @property
    def dropped(self) -> int:
        """Frames that nobody took in time."""
        return self._slot.dropped if self._slot is not None else 0

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """Yield frames until the file ends.

        Raises
        ------
        ConfigurationError
            If a file or a camera cannot be opened (unsupported_format).
        """
        self._slot = slot = Slot[Frame]()
        reading = asyncio.create_task(asyncio.to_thread(self._read, slot))
        try:
            while (frame := await slot.take()) is not None:
                yield frame
            await reading
        finally:
            slot.close()
            await asyncio.wait([reading])

    def _read(self, slot: Slot[Frame]) -> None:
        pause, shown = FIRST_PAUSE, without_password(self._address)
        try:
            while True:
                with _opened(self._address) as capture:
                    if capture.isOpened() and _ends(capture, self._address):
                        slot.waits = True
                        self._read_file(capture, slot)
                        return
                    before = self._number
                    self._read_stream(capture, slot)
                if slot.closed:
                    return
                if self._number > before:
                    pause = FIRST_PAUSE
                elif not (self._number or is_url(self._address)):
                    raise ConfigurationError(
                        Code.UNSUPPORTED_FORMAT, f"{shown} cannot be opened, or is no video."
                    )
                self._told(f"{shown} is away; it is tried again in {pause.total_seconds():g} s.")
                if not slot.pause(pause.total_seconds()):
                    return
                pause = min(2 * pause, LONGEST_PAUSE)
        finally:
            slot.end()

    def _read_file(self, capture: Any, slot: Slot[Frame]) -> None:
        rate = capture.get(cv2.CAP_PROP_FPS)
        step = max(1.0, rate / self._fps) if self._fps and rate > 0 else 1.0
        seen = 0
        while capture.grab():
            if seen >= self._number * step and not self._keep(capture, slot):
                return
            seen += 1

    def _read_stream(self, capture: Any, slot: Slot[Frame]) -> None:
        step = 1 / self._fps if self._fps else 0.0
        due = time.monotonic()
        while capture.grab():
            now = time.monotonic()
            if now >= due:
                # Whoever was held up does not make up for it with a burst.
                due = max(due + step, now)
                if not self._keep(capture, slot):
                    return

    def _keep(self, capture: Any, slot: Slot[Frame]) -> bool:
        """Hand over the frame that was grabbed; `False` to read no more."""
        there, pixels = capture.retrieve()
        if not there:
            return False
        self._number += 1
        return slot.put(Frame(self._number - 1, pixels))


@contextmanager
def _opened(address: str) -> Iterator[Any]:
    """Open the video; it may turn out not to be."""
    limit = int(ANSWERS_WITHIN.total_seconds() * 1000)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit]
    if is_camera(address):
        capture = cv2.VideoCapture(int(address) if address.isdecimal() else address)
    else:
        capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)
    try:
        yield capture
    finally:
        capture.release()


def _ends(capture: Any, address: str) -> bool:
    """Say whether the open video is a file, wherever it is."""
    if is_camera(address) or urlsplit(address).scheme in _STREAMS:
        return False
    return not is_url(address) or capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0
