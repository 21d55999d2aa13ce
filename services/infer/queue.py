"""Two lines in front of one counter: the urgent first, and nobody is left behind."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

OVERTAKERS = 8
"""So many urgent items in a row may pass one that waits: a flood of them leaves the others a ninth
of the engines."""

T = TypeVar("T")


class Queue(Generic[T]):
    """Keeps the order of arrival among the urgent and among the others."""

    def __init__(self) -> None:
        self._urgent: deque[T] = deque()
        self._others: deque[T] = deque()
        self._overtakers = 0

    def __len__(self) -> int:
        return len(self._urgent) + len(self._others)

    def __iter__(self) -> Iterator[T]:
        yield from self._urgent
        yield from self._others

    @property
    def heads(self) -> list[T]:
        """The first of each line; the longest wait is one of theirs."""
        return [line[0] for line in (self._urgent, self._others) if line]

    def put(self, item: T, *, urgent: bool) -> None:
        (self._urgent if urgent else self._others).append(item)

    def take(self) -> T:
        """Remove and return the next; raise `IndexError` if there is none."""
        if self._urgent and not (self._others and self._overtakers >= OVERTAKERS):
            self._overtakers = self._overtakers + 1 if self._others else 0
            return self._urgent.popleft()
        self._overtakers = 0
        return self._others.popleft()

    def keep(self, wanted: Callable[[T], bool]) -> None:
        """Drop what is not ``wanted``."""
        self._urgent = deque(filter(wanted, self._urgent))
        self._others = deque(filter(wanted, self._others))

    def clear(self) -> None:
        self.keep(lambda _: False)
