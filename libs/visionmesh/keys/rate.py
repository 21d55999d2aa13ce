"""Rates as people write them: ``100/s``, ``5000/m``, ``20000/h``."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import NamedTuple

_WINDOWS = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
_TEXT = re.compile(r"([1-9]\d{0,8})/([smhd])")


class Rate(NamedTuple):
    """So many images in any stretch of time as long as ``window``."""

    images: int
    window: timedelta

    def wait(self, *, before: float, now: float, elapsed: float, images: int) -> timedelta:
        """Return after how long ``images`` more are allowed; zero: at once.

        Time is cut into windows. Of the last one (with ``before`` images) the part counts that a
        window as long as these, ending at this moment, still covers; the present one has ``now``
        images and is over by its ``elapsed`` share, 0 to 1.
        """
        free = self.images - images
        if now <= free:
            over = 1 - elapsed - (free - now) / before if before else 0.0
        else:
            over = 1 - elapsed + 1 - max(free, 0) / now
        return max(over, 0.0) * self.window


def parse_rate(text: str) -> Rate:
    """Return the rate that ``text`` names; raise `ValueError` if it names none."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a rate: write images per time, such as 100/s or 5000/m")
    return Rate(int(match[1]), _WINDOWS[match[2]])
