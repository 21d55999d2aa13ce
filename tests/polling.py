"""Waiting for a condition, with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def until(probe: Callable[[], Awaitable[T | None]], *, within: float = 10) -> T:
    """Return the first true value of ``probe``; raise `TimeoutError` after ``within`` seconds."""
    async with asyncio.timeout(within):
        while not (found := await probe()):  # noqa: ASYNC110 - what servers do sets no event here
            await asyncio.sleep(0.02)
    return found
