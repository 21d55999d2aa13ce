"""A steady load of images, and what is measured of it where its results arrive."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import takewhile

import numpy as np

from visionmesh.cli.sending import Pace, Sender, beside, results_of_new, together
from visionmesh.client import Mesh
from visionmesh.contracts import Result, Status

_KEPT = 100_000
"""Latencies that the percentiles are taken of."""
_LAST_IMAGES = timedelta(seconds=15)
"""How long an image may take after the load has ended, be it to get into the mesh."""
_RECENT = 2.0
"""Seconds over which the present throughput is counted."""
_SENDERS = 4
"""Images that are published at once: a confirmation takes longer than a publication."""

Picture = Callable[[], bytes]
"""Makes the next encoded image; called in a thread, never twice at once."""


@dataclass(kw_only=True)
class Measured:
    """Counts, and times in seconds from publishing an image to having its result."""

    began: float = field(default_factory=time.monotonic)
    published: int = 0
    """Also those that the mesh has not confirmed yet."""
    answered: int = 0
    failed: int = 0
    cached: int = 0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def note(self, result: Result, latency: float) -> None:
        self.answered += 1
        self.failed += result.status is not Status.OK
        self.cached += result.cache is not None and result.cache.hit
        self.latencies.append(latency)
        self.arrivals.append(time.monotonic())

    def rate(self) -> float:
        """Return the results per second, from the first to the last."""
        if len(self.arrivals) < 2:  # noqa: PLR2004 - a rate needs a beginning and an end
            return 0.0
        return (len(self.arrivals) - 1) / (self.arrivals[-1] - self.arrivals[0])

    def recent_rate(self) -> float:
        """Return the results per second of the last moments."""
        horizon = time.monotonic() - _RECENT
        recent = takewhile(lambda arrival: arrival > horizon, reversed(self.arrivals))
        return len(list(recent)) / min(_RECENT, max(time.monotonic() - self.began, 1e-3))

    def percentiles(self) -> dict[str, float]:
        """Return p50, p95 and p99 in milliseconds; nothing before the first result."""
        if not self.latencies:
            return {}
        values = np.percentile(np.asarray(self.latencies), [50, 95, 99]) * 1e3
        return dict(zip(("p50", "p95", "p99"), values.round(2).tolist(), strict=True))


class Load:
    """Keeps ``window`` images in the mesh until it is told to stop."""

    def __init__(
        self,
        *,
        mesh: Mesh,
        model: str,
        source: str,
        picture: Picture,
        window: int,
        rate: float | None = None,
        show: Callable[[Result, bytes], None] = lambda result, image: None,
        measured: Measured | None = None,
    ) -> None:
        self._sender = Sender(mesh=mesh, model=model, source=source)
        self._results = results_of_new(source, mesh=mesh, model=model)
        self._picture = picture
        self._pace = Pace(rate)
        self._window = window
        self._room = asyncio.Semaphore(window)
        self._one_at_a_time = asyncio.Lock()
        self._show = show
        self._in_mesh: dict[str, tuple[bytes, float]] = {}
        self.measured = measured or Measured()

    async def run(self, *, stop: asyncio.Event) -> None:
        """Send until ``stop`` is set, then wait a while for what is on its way."""
        await beside(self._read(), self._send_and_wait(stop))

    async def _send_and_wait(self, stop: asyncio.Event) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(None) as patience:
                await beside(_limit(patience, stop), self._send_all(stop))

    async def _send_all(self, stop: asyncio.Event) -> None:
        await together(*(self._send(stop) for _ in range(_SENDERS)))
        for _ in range(self._window):
            await self._room.acquire()

    async def _send(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self._room.acquire()
            async with self._one_at_a_time:
                image = await asyncio.to_thread(self._picture)
            await self._pace.wait()
            id = uuid.uuid4().hex
            self._in_mesh[id] = image, time.monotonic()
            self.measured.published += 1
            await self._sender.send(image, id=id)

    async def _read(self) -> None:
        async for result in self._results:
            # A replay may show a result twice.
            if waited := self._in_mesh.pop(result.id, None):
                image, sent = waited
                self.measured.note(result, time.monotonic() - sent)
                self._room.release()
                self._show(result, image)


async def _limit(patience: asyncio.Timeout, stop: asyncio.Event) -> None:
    """Let ``patience`` end some time after ``stop``, also for a mesh that takes nothing more."""
    await stop.wait()
    patience.reschedule(asyncio.get_running_loop().time() + _LAST_IMAGES.total_seconds())
