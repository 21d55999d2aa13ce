"""Which slots of an arena are free."""

from __future__ import annotations


class FreeSlots:
    """A set of free slots, one bit of an integer each, that gives out contiguous runs.

    The lowest run that fits is taken: low slots stay warm, and what is large finds room above.
    """

    __slots__ = ("_free",)

    def __init__(self, count: int) -> None:
        self._free = (1 << count) - 1

    def take(self, run: int) -> int | None:
        """Take ``run`` contiguous slots; return the first, or `None` if there is no such run."""
        # Bit i of `starts`: the `length` slots from i on are free.
        starts, length = self._free, 1
        while length < run:
            step = min(length, run - length)
            starts &= starts >> step
            length += step
        if not starts:
            return None
        first = (starts & -starts).bit_length() - 1
        self._free &= ~(((1 << run) - 1) << first)
        return first

    def give(self, first: int, run: int) -> None:
        """Make the ``run`` slots from ``first`` on free again."""
        self._free |= ((1 << run) - 1) << first
