"""Which engines compute with the same thing, and what follows from it for their batches."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence, Sized
from itertools import pairwise


class Units:
    """What each engine computes with, by the engine's index: cores of its own, or a GPU's slots.

    Engines on one unit overlap only their copies. Two half batches on it take longer than a whole
    one, so images are shared out among units, and not among their engines.
    """

    def __init__(self, units: Sequence[Hashable]) -> None:
        self._units = tuple(units)
        self.shared = len(set(units)) < len(units)
        """Whether any engine has to take turns."""

    def ahead(self, index: int, running: Mapping[int, Sized]) -> int:
        """Return the size of the largest batch that is at work on the unit of engine ``index``."""
        unit = self._units[index]
        return max((len(b) for at, b in running.items() if self._units[at] == unit), default=0)

    def free(self, index: int, idle: Collection[int], running: Collection[int]) -> int:
        """Return how many units are idle, that of engine ``index`` among them."""
        busy = {self._units[at] for at in running}
        free = {self._units[at] for at in idle} - busy
        return len(free | {self._units[index]})


def fitting(sizes: Sequence[int], wanted: int) -> int:
    """Return how many of ``wanted`` images to run at once by a network for batches of ``sizes``.

    A batch may be filled up if at least three quarters of it are images: a third more than needed
    costs less than another run for the rest. Else it is the largest size that they fill.
    """
    if wanted <= sizes[0]:
        return wanted
    for smaller, larger in pairwise(sizes):
        if smaller <= wanted < larger:
            return wanted if 4 * wanted >= 3 * larger else smaller
    return sizes[-1]
