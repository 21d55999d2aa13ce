"""The access layer's HTTP interface: which protocol a path belongs to, and whose pages may call."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from services.ingest.addresses import as_address, is_loopback
from services.ingest.door import KeyHolder, caller_of
from services.ingest.forms import first_segment, refusal_of
from visionmesh.errors import Code, Refused
from visionmesh.http import App, Receive, Scope, Send


class Front:
    """Gives a request to the protocol whose prefix its path begins with, else to ``rest``.

    Prefixes end where a segment of the path does; ``/`` is the path ``/`` alone.
    """

    def __init__(self, *, protocols: Mapping[str, App], rest: App) -> None:
        self._protocols = protocols
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope.get("path", ""))(scope, receive, send)

    def _app(self, path: str) -> App:
        return self._protocols.get(first_segment(path), self._rest)


class OwnPages:
    """Refuses what web pages of strangers send from a browser on this host, where no key is needed.

    A page may send a request to any address that its reader's browser reaches, this host's
    loopback included. Its browser names the page's origin then, or, where the page's own name
    leads here, that name as the host. Other programs are not concerned: they send no origin, and
    reach us by an address, by the name ``host``, or by one that no DNS knows: without a dot.
    """

    def __init__(self, *, app: App, host: str) -> None:
        self._app = app
        self._host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not isinstance(caller_of(scope), KeyHolder):
            headers = dict(scope["headers"])
            host = headers.get(b"host", b"").decode("latin-1")
            origin = headers.get(b"origin", b"").decode("latin-1")
            if (why := self._fault(host, origin)) is not None:
                error = Refused(Code.FORBIDDEN, why)
                await refusal_of(scope["path"], error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _fault(self, host: str, origin: str) -> str | None:
        name = _name(f"//{host}")
        undotted = not host or "." not in name or name.endswith(".localhost")
        if not (undotted or as_address(name) or name == self._host):
            return (
                f"Without API keys no one is served under the name {name[:80]!r}: use an address, "
                "or have keys required."
            )
        if origin and origin.partition("//")[2] != host and not is_loopback(_name(origin)):
            return f"Pages of {origin[:80]!r} may not call without an API key."
        return None


def _name(url: str) -> str:
    """Return the host of ``url``, or nothing that anybody is called if it has none."""
    try:
        return urlsplit(url).hostname or "."
    except ValueError:
        return "."
