"""Which models have more to do than their engines can take at once."""

from __future__ import annotations

BEGINS = 8
"""Waiting images from which on a model is busy: about 100 ms of work for two engines of 25 ms."""
ENDS = 4


class Backlog:
    """Follows the queues; with hysteresis, so that the state does not flutter."""

    def __init__(self) -> None:
        self._busy: set[str] = set()

    def note(self, model: str, queued: int) -> bool:
        """Take the length of a queue, in images; say whether the state changed."""
        before = model in self._busy
        now = queued >= (ENDS if before else BEGINS)
        if now:
            self._busy.add(model)
        else:
            self._busy.discard(model)
        return now != before

    @property
    def busy(self) -> tuple[str, ...]:
        return tuple(sorted(self._busy))
