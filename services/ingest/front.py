"""The access layer's HTTP interface: which protocol a path belongs to."""

from __future__ import annotations

from collections.abc import Mapping

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
        first = "/" + path.lstrip("/").partition("/")[0]
        return self._protocols.get(first, self._rest)
