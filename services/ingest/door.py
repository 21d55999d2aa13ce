"""Who calls, and what they may do."""

from __future__ import annotations

from enum import StrEnum

from visionmesh.http import Scope

_CALLER = "visionmesh.caller"


class Right(StrEnum):
    """What a key may be good for."""

    INFER = "infer"
    PUBLISH = "publish"
    READ = "read"
    """Results, models and metrics."""
    ADMIN = "admin"
    """Load, unload, create and delete models."""


class Caller:
    """Somebody who needs no key."""

    def require(self, right: Right, model: str | None = None) -> None:
        """Raise `Refused` (unauthorized, forbidden) if the caller may not do that."""

    async def spend(self, images: int) -> None:
        """Count ``images`` on the caller's rate; raise `Refused` (rate_limited) beyond it."""


def caller_of(scope: Scope) -> Caller:
    """Return who sent the request."""
    caller = scope.get(_CALLER, _ANYBODY)
    assert isinstance(caller, Caller)
    return caller


_ANYBODY = Caller()
