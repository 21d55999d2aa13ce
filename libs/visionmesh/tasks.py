"""Ending tasks for certain."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

AGAIN = timedelta(milliseconds=100)
"""Before a task that went on is told again."""


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel ``tasks`` and return when all have ended, well or not.

    `asyncio.wait_for` of Python 3.11, on which nats-py is built, loses a cancellation that comes
    at the same moment as what it waits for: so a task is told until it listens.
    """
    all_tasks = set(tasks)
    going_on = all_tasks
    while going_on:
        for task in going_on:
            task.cancel()
        _, going_on = await asyncio.wait(going_on, timeout=AGAIN.total_seconds())
    await asyncio.gather(*all_tasks, return_exceptions=True)
