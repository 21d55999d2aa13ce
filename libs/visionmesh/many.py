"""Many calls at once, but not too many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Generic, TypeVar

from visionmesh.tasks import end

T = TypeVar("T")
R = TypeVar("R")


async def call_many(
    call: Callable[[int, T], Coroutine[Any, Any, R]],
    items: Iterable[T] | AsyncIterable[T],
    *,
    at_once: int,
    ordered: bool,
) -> AsyncGenerator[R, None]:
    """Yield what ``call`` returns for each item, given its number from 0 and the item.

    So many are under way ``at_once``; what is ready and not yet asked for counts too, so nothing
    piles up. The first error ends it all.
    """
    if at_once < 1:
        raise ValueError(f"at_once must be at least 1, not {at_once}")
    queue, number = _Items(items), 0
    going: list[asyncio.Task[R]] = []
    coming: asyncio.Task[tuple[T] | None] | None = asyncio.create_task(queue.next())
    try:
        while coming is not None or going:
            awaited: list[asyncio.Task[Any]] = going[:1] if ordered else going[:]
            if coming is not None and len(going) < at_once:
                awaited.append(coming)
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            if coming is not None and coming in awaited and coming.done():
                if (item := coming.result()) is not None:
                    going.append(asyncio.create_task(call(number, *item)))
                    number += 1
                coming = asyncio.create_task(queue.next()) if item is not None else None
            # One at a time: so what is asked for is followed by what is new.
            if ready := _ready(going, ordered=ordered):
                going.remove(ready)
                yield ready.result()
    finally:
        await end(going if coming is None else [*going, coming])


def _ready(going: list[asyncio.Task[R]], *, ordered: bool) -> asyncio.Task[R] | None:
    return next((task for task in (going[:1] if ordered else going) if task.done()), None)


class _Items(Generic[T]):
    """The items of either kind of iterable.

    What a plain iterator does for the next item does not hold up the event loop.
    """

    def __init__(self, items: Iterable[T] | AsyncIterable[T]) -> None:
        self._at_hand = isinstance(items, Sequence)
        self._waiting = aiter(items) if isinstance(items, AsyncIterable) else None
        self._plain = iter(()) if isinstance(items, AsyncIterable) else iter(items)

    async def next(self) -> tuple[T] | None:
        """Return the next item; `None`: there is none."""
        if self._waiting is not None:
            try:
                return (await anext(self._waiting),)
            except StopAsyncIteration:
                return None
        return self._step() if self._at_hand else await asyncio.to_thread(self._step)

    def _step(self) -> tuple[T] | None:
        try:
            return (next(self._plain),)
        except StopIteration:
            return None
