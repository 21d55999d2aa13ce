"""What is wrong with a document, in words that say what to do about it."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import ValidationError

_UNKNOWN = "extra_forbidden"
_ADVICE = {
    _UNKNOWN: "this key is not known; remove it or correct its spelling",
    "missing": "this key is missing; add it",
    "tuple_type": "this must be a list",
}


class Fault(NamedTuple):
    """One thing that is wrong with a document."""

    where: str
    """The keys that lead there, joined by dots; empty if it is the whole."""
    what: str
    is_unknown: bool
    """Whether there is no such key."""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


def first_fault(error: ValidationError) -> Fault:
    """Return the first of those that pydantic found."""
    first = error.errors()[0]
    return Fault(
        where=".".join(str(part) for part in first["loc"] if part != "[key]"),
        what=_ADVICE.get(first["type"], first["msg"].removeprefix("Value error, ")),
        is_unknown=first["type"] == _UNKNOWN,
    )
