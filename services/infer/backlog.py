"""How long the engines of each model are busy with what waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

NOTABLE = timedelta(milliseconds=32)
"""A shorter backlog is none: holding images back could leave an engine idle."""
NEWS_PAUSE = timedelta(milliseconds=100)
_MEMORY = 0.9
"""Weight of the past in the running mean of what one image costs."""


class Backlog:
    """Follows the queues; tells powers of two, so that not every image is news to the mesh."""

    def __init__(self) -> None:
        self._costs: dict[str, float] = {}
        self._told: dict[str, int] = {}

    def note(self, model: str, *, queued: int, engines: int, cost: timedelta) -> bool:
        """Take the images that wait, and the time that the last one took on one of the engines.

        Returns whether `milliseconds` says something else now.
        """
        last = cost / timedelta(milliseconds=1)
        mean = self._costs.get(model, last)
        self._costs[model] = mean = _MEMORY * mean + (1 - _MEMORY) * last
        wait = queued * mean / engines
        told = (
            1 << (int(wait).bit_length() - 1) if wait >= NOTABLE / timedelta(milliseconds=1) else 0
        )
        changed = told != self._told.get(model, 0)
        self._told[model] = told
        return changed

    @property
    def milliseconds(self) -> dict[str, int]:
        """The models with a backlog, and how long it is, rounded down."""
        return {model: told for model, told in self._told.items() if told}

    async def tell(self, update: Callable[[dict[str, int]], Awaitable[None]]) -> None:
        """Call ``update`` with `milliseconds` until that says nothing new, with pauses between."""
        told: dict[str, int] | None = None
        while told != self.milliseconds:
            told = self.milliseconds
            await update(told)
            # More news come together meanwhile.
            await asyncio.sleep(NEWS_PAUSE.total_seconds())
