"""Durations as people write them: ``10ms``, ``30s``, ``5m``, ``1h``, ``7d``."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator

_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
_TEXT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*")


def parse_duration(text: str) -> timedelta:
    """Return the duration that ``text`` names; raise `ValueError` if it names none."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{text!r} is not a duration: write a number and one of {', '.join(_UNITS)}"
        )
    return float(match[1]) * _UNITS[match[2]]


def _read(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) and not value.startswith("P") else value


Duration = Annotated[timedelta, BeforeValidator(_read)]
"""A `timedelta` field that also reads ``10ms``; ISO 8601 (``PT0.01S``) and seconds still work."""
