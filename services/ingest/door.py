"""Who calls, and what they may do."""

from __future__ import annotations

import logging
from typing import Literal

from starlette.responses import Response

from services.ingest.addresses import is_loopback
from services.ingest.forms import refusal_of
from visionmesh.errors import Code, Refused
from visionmesh.http import App, Receive, Scope, Send
from visionmesh.keys import KeyRecord, Right, parse_rate
from visionmesh.keys.quota import Quota
from visionmesh.keys.ring import KeyRing

__all__ = ["Caller", "Door", "Right", "caller_of"]

_CALLER = "visionmesh.caller"
_OPEN = frozenset(
    {"/", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json"}
)
"""Whether it lives, and what it is: no key is needed to ask."""
_HOW = (
    "Send a key as 'Authorization: Bearer vmk_…'; `visionmesh keys add NAME` makes one "
    "where the mesh runs."
)

log = logging.getLogger(__name__)


class Caller:
    """Somebody who needs no key."""

    def require(self, right: Right, model: str | None = None) -> None:
        """Raise `Refused` (unauthorized, forbidden) if the caller may not do that.

        ``model`` is ``*`` for what concerns all models, and `None` for what concerns none.
        """

    async def spend(self, images: int) -> None:
        """Count ``images`` on the caller's rate; raise `Refused` (rate_limited) beyond it."""


class KeyHolder(Caller):
    """Somebody with a valid key; once it is revoked, a caller who stays may do nothing more."""

    def __init__(self, record: KeyRecord, *, keys: KeyRing, quota: Quota) -> None:
        self._found = record
        self._keys = keys
        self._quota = quota

    def require(self, right: Right, model: str | None = None) -> None:
        record = _valid(self._keys.now(self._found))
        if right not in record.rights:
            held = ", ".join(record.rights)
            why = f"The key {record.id} lacks the right '{right}'; it has {held}."
            raise Refused(Code.FORBIDDEN, why)
        if model is not None and not record.covers(model):
            which = "all models" if model == "*" else f"the model {model[:63]!r}"
            raise Refused(Code.FORBIDDEN, f"The key {record.id} is not for {which}.")

    async def spend(self, images: int) -> None:
        record = self._keys.now(self._found)
        if record.rate is None or images < 1:
            return
        rate = parse_rate(record.rate)
        if images > rate.images:
            raise Refused(
                Code.INVALID_REQUEST,
                f"{images} images at once are more than the key's rate of {record.rate} ever "
                "allows; send fewer in one request.",
            )
        if wait := await self._quota.take(record.id, rate, images):
            raise Refused(
                Code.RATE_LIMITED,
                f"The key {record.id} is good for {record.rate}; try again in "
                f"{max(wait.total_seconds(), 0.001):.3g} s.",
                wait=wait,
            )


class Door:
    """Tells who calls by their API key, and lets nobody in who needs one and has none."""

    def __init__(
        self,
        *,
        keys: KeyRing,
        quota: Quota,
        host: str,
        policy: Literal["auto", "required", "off"],
    ) -> None:
        self._keys = keys
        self._quota = quota
        self._host = host
        self._policy = policy

    async def start(self) -> None:
        """Return when all keys are known."""
        await self._keys.start()
        if self._needs_key(peer_is_local=False) and not len(self._keys) and self._is_reachable:
            log.warning("No client gets in, as the mesh has no valid API key yet. %s", _HOW)
        if self._policy == "off" and self._is_reachable:
            log.warning("Who reaches %s may do everything: API keys are off.", self._host)

    async def stop(self) -> None:
        await self._keys.stop()
        await self._quota.close()

    def caller(self, credentials: str | None, peer_is_local: bool) -> Caller:
        """Return who shows these ``credentials``: a key, ``Bearer`` before it or not.

        ``peer_is_local`` says whether the connection comes from this host.

        Raises
        ------
        Refused
            (unauthorized) if a key is needed, and this is none that is valid;
            (mesh_unreachable) while the keys are not known yet.
        """
        if not self._needs_key(peer_is_local=peer_is_local):
            return _ANYBODY
        if not self._keys.complete:
            raise Refused(Code.MESH_UNREACHABLE, "The API keys are still being read; try again.")
        if not credentials:
            raise Refused(Code.UNAUTHORIZED, f"This mesh wants an API key. {_HOW}")
        scheme, _, rest = credentials.strip().partition(" ")
        record = self._keys.find(rest.strip() if scheme.lower() == "bearer" else scheme)
        if record is None:
            raise Refused(Code.UNAUTHORIZED, f"The API key is not one of this mesh. {_HOW}")
        return KeyHolder(_valid(record), keys=self._keys, quota=self._quota)

    def guard(self, app: App) -> App:
        """Return ``app`` behind this door; it finds out by `caller_of` who has come in.

        Bodies of those who are turned away are left to `limits.Limits`, which is to stand before.
        """

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            path = scope.get("path", "")
            if scope["type"] != "http" or path in _OPEN:
                await app(scope, receive, send)
                return
            try:
                caller = self.caller(_credentials(scope), is_loopback(_peer(scope)))
                if path == "/metrics":
                    caller.require(Right.READ)
            except Refused as error:
                await _turned_away(error, path)(scope, receive, send)
                return
            scope[_CALLER] = caller
            await app(scope, receive, send)

        return guarded

    @property
    def _is_reachable(self) -> bool:
        return not is_loopback(self._host)

    def _needs_key(self, *, peer_is_local: bool) -> bool:
        if self._policy == "auto":
            # Also where others come through a loopback address, by a route of the kernel's.
            return self._is_reachable or not peer_is_local
        return self._policy == "required"


def caller_of(scope: Scope) -> Caller:
    """Return who sent the request."""
    caller = scope.get(_CALLER, _ANYBODY)
    assert isinstance(caller, Caller)
    return caller


def _valid(record: KeyRecord) -> KeyRecord:
    if (fault := record.fault()) is not None:
        raise Refused(Code.UNAUTHORIZED, f"The API key {record.id} {fault}. {_HOW}")
    return record


def _peer(scope: Scope) -> str:
    return (scope.get("client") or ("",))[0]


def _credentials(scope: Scope) -> str | None:
    found = {
        name: value for name, value in scope["headers"] if name in {b"authorization", b"x-api-key"}
    }
    value = found.get(b"authorization", found.get(b"x-api-key"))
    return None if value is None else value.decode("latin-1")


def _turned_away(error: Refused, path: str) -> Response:
    answer = refusal_of(path, error)
    if error.code is Code.UNAUTHORIZED:
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


_ANYBODY = Caller()
