"""A web of which this host has the only server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import httpx

from services.ingest.urls import is_public
from visionmesh.http import HttpServer, Receive, Scope, Send

PUBLIC = "93.184.215.14"
LIMIT = 100_000
"""Bytes of an image."""


class Web:
    """A server on this host, and a transport that reaches it as what public addresses lead to."""

    def __init__(self) -> None:
        self.port = 0
        self.asked: list[str] = []
        self.headers: list[dict[bytes, bytes]] = []
        self.resolved: dict[str, list[str]] = {}
        self.released = asyncio.Event()
        """Lets ``/slow`` answer to its end."""

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        self.headers.append(headers)
        self.asked.append(f"{headers[b'host'].decode()}{scope['path']}")
        status, extra, body = self._answer(scope["path"])
        await send({"type": "http.response.start", "status": status, "headers": extra})
        if scope["path"] == "/slow":
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await self.released.wait()
        await send({"type": "http.response.body", "body": body})

    def _answer(self, path: str) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        if path.startswith("/to/"):
            where = bytes.fromhex(path.removeprefix("/to/"))
            return 302, [(b"location", where), (b"set-cookie", b"a=b")], b""
        if path == "/gzip":
            return 200, [(b"content-encoding", b"gzip")], b"anything"
        sizes = {"/image": 10, "/slow": 9, "/brim": LIMIT, "/large": LIMIT + 1}
        return (200, [], b"i" * sizes[path]) if path in sizes else (404, [], b"")

    async def resolve(self, host: str, port: int) -> list[str]:
        return self.resolved.get(host, [PUBLIC])


class ToThisHost(httpx.AsyncBaseTransport):
    """Connects to the server of this host whatever public address is asked for."""

    def __init__(self, web: Web) -> None:
        self._web = web
        self._real = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert is_public(request.url.host)
        request.url = request.url.copy_with(scheme="http", host="127.0.0.1", port=self._web.port)
        return await self._real.handle_async_request(request)

    async def aclose(self) -> None:
        await self._real.aclose()


@asynccontextmanager
async def serving() -> AsyncIterator[Web]:
    """Yield the web while its server runs."""
    found = Web()
    server = HttpServer(app=found.app, host="127.0.0.1", port=0, grace=timedelta(milliseconds=50))
    found.port = await server.start()
    yield found
    await server.stop()
