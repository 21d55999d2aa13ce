"""Keeping away from a server that does not answer."""

from __future__ import annotations

import time
from datetime import timedelta


class Breaker:
    """Open for ``first`` after a failure, twice as long after each further one, up to ``longest``.

    Once it is closed again, the next call is the trial; a success forgets all failures.
    """

    def __init__(self, *, first: timedelta, longest: timedelta) -> None:
        self._first = first.total_seconds()
        self._longest = longest.total_seconds()
        self._pause = self._first
        self._open_until = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the server is to be left alone at this moment."""
        return self._open_until > 0.0 and time.monotonic() < self._open_until

    def fail(self) -> None:
        """Note that a call failed; calls that fail together count once."""
        if not self.is_open:
            self._open_until = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, self._longest)

    def succeed(self) -> None:
        """Note that a call succeeded."""
        if not self.is_open:
            self._pause = self._first
