"""Something that is to be done later, once for each of several things."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Generic, TypeVar

Name = TypeVar("Name")


class Alarms(Generic[Name]):
    """At most one call in the event loop for each name."""

    def __init__(self) -> None:
        self._timers: dict[Name, asyncio.TimerHandle] = {}

    def set(self, name: Name, after: timedelta, call: Callable[[Name], object]) -> None:
        """Have ``call`` called with ``name``, and not what was set for it before."""
        self.cancel(name)
        loop = asyncio.get_running_loop()
        self._timers[name] = loop.call_later(after.total_seconds(), call, name)

    def cancel(self, name: Name) -> None:
        if (timer := self._timers.pop(name, None)) is not None:
            timer.cancel()
