"""Many calls at once, but not too many."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Sequence,
)
from typing import Any, TypeVar

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
    items, number = _each(items), 0
    going: list[asyncio.Task[R]] = []
    coming: asyncio.Task[tuple[T] | None] | None = asyncio.create_task(_next(items))
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
                coming = asyncio.create_task(_next(items)) if item is not None else None
            while ready := _ready(going, ordered=ordered):
                going.remove(ready)
                yield ready.result()
    finally:
        await end(going if coming is None else [*going, coming])
        await items.aclose()


def _ready(going: list[asyncio.Task[R]], *, ordered: bool) -> asyncio.Task[R] | None:
    return next((task for task in (going[:1] if ordered else going) if task.done()), None)


async def _next(items: AsyncGenerator[T, None]) -> tuple[T] | None:
    async for item in items:
        return (item,)
    return None


async def _each(items: Iterable[T] | AsyncIterable[T]) -> AsyncGenerator[T, None]:
    """Yield ``items``; what a plain iterator does for the next one does not hold up the loop."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    elif isinstance(items, Sequence):
        for item in items:
            yield item
    else:
        iterator = iter(items)
        while (found := await asyncio.to_thread(_next_of, iterator)) is not None:
            yield found[0]


def _next_of(iterator: Iterator[T]) -> tuple[T] | None:
    try:
        return (next(iterator),)
    except StopIteration:
        return None
