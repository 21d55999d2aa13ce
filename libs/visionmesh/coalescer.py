"""Doing together what is asked for at the same time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Coalescer(Generic[Item, Result]):
    """Gathers items into batches.

    A batch is what was submitted in one turn of the event loop, or while the batches before it
    were being processed: at most ``max_items``, at most ``in_flight`` batches at once, in the
    order of submission. Nothing is held back for company unless ``linger`` says for how many
    seconds; a full batch never is. ``process`` returns one result for each item of its batch; what
    it raises is raised to each submitter. All calls belong to the thread of the event loop.
    """

    def __init__(
        self,
        *,
        process: Callable[[Sequence[Item]], Coroutine[Any, Any, Sequence[Result]]],
        max_items: int,
        in_flight: int = 1,
        linger: Callable[[], float] | None = None,
    ) -> None:
        self._process = process
        self._max_items = max_items
        self._in_flight = in_flight
        self._linger = linger
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._tasks: set[asyncio.Task[Sequence[Result]]] = set()
        self._scheduled: asyncio.Handle | None = None
        self._closed = False

    @property
    def waiting(self) -> int:
        """Items that no batch has taken yet."""
        return len(self._waiting)

    def submit(self, item: Item) -> asyncio.Future[Result]:
        """Put ``item`` into the next batch; await the returned future for its result.

        An item whose future is cancelled before its batch begins is left out; later than that,
        its result is dropped.
        """
        if self._closed:
            raise RuntimeError("A closed coalescer takes nothing more.")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, future))
        self._schedule(loop)
        return future

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        full = len(self._waiting) >= self._max_items
        if len(self._tasks) >= self._in_flight or (self._scheduled and not full):
            return
        if self._scheduled:
            self._scheduled.cancel()
        seconds = 0.0 if full or self._linger is None else self._linger()
        if seconds:
            self._scheduled = loop.call_later(seconds, self._start)
        else:
            self._scheduled = loop.call_soon(self._start)

    async def flush(self) -> None:
        """Return when all that was submitted is done, well or not."""
        self._start()
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Take nothing more and finish the rest."""
        self._closed = True
        await self.flush()

    def _start(self) -> None:
        if self._scheduled:
            self._scheduled.cancel()
            self._scheduled = None
        while len(self._tasks) < self._in_flight and (batch := self._take()):
            items, futures = zip(*batch, strict=True)
            task = asyncio.create_task(self._process(items))
            self._tasks.add(task)
            task.add_done_callback(partial(self._finish, futures))

    def _take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        while self._waiting and len(batch) < self._max_items:
            item, future = self._waiting.popleft()
            if not future.done():
                batch.append((item, future))
        return batch

    def _finish(
        self, futures: Sequence[asyncio.Future[Result]], task: asyncio.Task[Sequence[Result]]
    ) -> None:
        self._tasks.discard(task)
        self._start()
        waited_for = [future for future in futures if not future.done()]
        if task.cancelled():
            for future in waited_for:
                future.cancel()
        elif error := task.exception() or _miscounted(futures, task.result()):
            for future in waited_for:
                future.set_exception(error)
        else:
            for future, result in zip(futures, task.result(), strict=True):
                if not future.done():
                    future.set_result(result)


def _miscounted(futures: Sequence[object], results: Sequence[object]) -> RuntimeError | None:
    if len(results) == len(futures):
        return None
    return RuntimeError(f"{len(futures)} items were processed into {len(results)} results.")
