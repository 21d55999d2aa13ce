"""The place where a thread leaves what an event loop takes."""

from __future__ import annotations

import asyncio
import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class Slot(Generic[T]):
    """Holds one value, and gives way to a newer one: `dropped` counts those that nobody took.

    With `waits` it is the thread that waits, and nothing is lost. Once it is `closed` nobody takes
    anything any more.
    """

    def __init__(self) -> None:
        self.waits = False
        self.dropped = 0
        self._loop = asyncio.get_running_loop()
        self._changed = threading.Condition()
        self._value: T | None = None
        self.closed = False
        self._ended = False
        self._ready = asyncio.Event()

    def put(self, value: T) -> bool:
        """Leave ``value``; `False` once it is closed. Of the thread."""
        with self._changed:
            while self.waits and self._value is not None and not self.closed:
                self._changed.wait()
            if self.closed:
                return False
            self.dropped += self._value is not None
            self._value = value
            self._loop.call_soon_threadsafe(self._ready.set)
            return True

    def pause(self, seconds: float) -> bool:
        """Wait; `False`, and at once, when it is closed. Of the thread."""
        with self._changed:
            return not self._changed.wait_for(lambda: self.closed, seconds)

    def end(self) -> None:
        """Say that nothing comes any more. Of the thread."""
        with self._changed:
            self._ended = True
            if not self.closed:
                self._loop.call_soon_threadsafe(self._ready.set)

    async def take(self) -> T | None:
        """Return the value as soon as there is one; `None`: nothing comes any more."""
        await self._ready.wait()
        with self._changed:
            value, self._value = self._value, None
            if not self._ended:
                self._ready.clear()
            self._changed.notify_all()
            return value

    def close(self) -> None:
        """Take nothing any more."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()
