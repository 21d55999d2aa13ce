"""A copy of what the mesh stores, kept up to date by a task."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, TypeVar

from visionmesh.errors import Code, Fatal
from visionmesh.tasks import end

log = logging.getLogger(__name__)

T = TypeVar("T")


class Following(Generic[T]):
    """Notes each of ``changes``, one at a time.

    Parameters
    ----------
    what
        Is followed: "the models".
    changes
        Begins to yield what is stored, then `None`, then each change, for ever.
    note
        Takes one of them.
    fail
        Is told if no more can be noted: what is known here would stay as it is for ever.
    """

    def __init__(
        self,
        *,
        what: str,
        changes: Callable[[], AsyncIterator[T | None]],
        note: Callable[[T], Awaitable[None]],
        fail: Callable[[Fatal], None],
    ) -> None:
        self._what = what
        self._changes = changes
        self._note = note
        self._fail = fail
        self._known = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def complete(self) -> bool:
        """Whether everything was noted that was stored at the start."""
        return self._known.is_set()

    async def start(self) -> None:
        """Return when everything is noted that is stored; raise what prevents that."""
        self._task = asyncio.create_task(self._follow(), name=f"follow {self._what}")
        self._task.add_done_callback(self._ended)
        known = asyncio.create_task(self._known.wait())
        await asyncio.wait((self._task, known), return_when=asyncio.FIRST_COMPLETED)
        known.cancel()
        if self._task.done():
            self._task.result()

    async def stop(self) -> None:
        if self._task is not None:
            await end([self._task])

    async def _follow(self) -> None:
        async for change in self._changes():
            if change is None:
                self._known.set()
            else:
                await self._note(change)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("cannot follow %s any more", self._what, exc_info=error)
            why = f"{self._what.capitalize()} cannot be followed any more: {error}"
            self._fail(Fatal(Code.INTERNAL, why))
