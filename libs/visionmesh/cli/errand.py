"""Publishing some images and waiting for exactly their results."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import timedelta
from pathlib import Path

from visionmesh.cli.console import failed
from visionmesh.cli.sending import Sender, beside
from visionmesh.contracts import Result, Status
from visionmesh.errors import Code, Refused


class Errand:
    """Sends ``images`` (files by event id) and shows the result of each as it comes."""

    def __init__(
        self,
        *,
        sender: Sender,
        results: AsyncIterator[Result],
        images: Mapping[str, Path],
        show: Callable[[Result], Awaitable[None]],
    ) -> None:
        self._sender = sender
        self._results = results
        self._images = images
        self._show = show
        self._waiting = set(images)
        self._failures = 0
        self._nothing_waits = asyncio.Event()

    async def run(self, *, silence: timedelta) -> int:
        """Return how many images have no result that is ok.

        Raises
        ------
        Refused
            (timeout) if nothing comes for as long as ``silence``.
        """
        await beside(self._read(silence), self._send_and_wait())
        return self._failures

    async def _send_and_wait(self) -> None:
        await self._sender.send_all(self._images, each=self._sent)
        await self._nothing_waits.wait()

    def _sent(self, id: str, error: Refused | None) -> None:
        if error is not None:
            failed(f"{self._images[id]}: {error.message}", error.code)
            self._failures += 1
            self._done(id)

    def _done(self, id: str) -> None:
        self._waiting.discard(id)
        if not self._waiting:
            self._nothing_waits.set()

    async def _read(self, silence: timedelta) -> None:
        while True:
            try:
                result = await asyncio.wait_for(anext(self._results), silence.total_seconds())
            except TimeoutError as error:
                raise Refused(
                    Code.TIMEOUT,
                    f"No result came for {silence.total_seconds():g} s; "
                    f"{len(self._waiting)} of {len(self._images)} images have none.",
                ) from error
            if result.id in self._waiting:
                self._failures += result.status is not Status.OK
                await self._show(result)
                self._done(result.id)
