"""What clients accept, as ``Accept`` and ``Accept-Encoding`` say it."""

from __future__ import annotations

import re
from collections.abc import Mapping

_WEIGHT = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")
"""RFC 9110, section 12.4.2."""


def preferred(header: str, known: Mapping[str, str]) -> str | None:
    """Return what a header likes best of ``known``, the first of equals; `None`: nothing of it.

    ``known`` has in lower case what headers name, and what each name is answered with.
    """
    best, most = None, 0.0
    for entry in header.lower().split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        weight = _weight(parameters)
        if name in known and weight > most:
            best, most = known[name], weight
    return best


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            weight = parameter.removeprefix("q=")
            return float(weight) if _WEIGHT.fullmatch(weight) else 0.0
    return 1.0
