"""An application behind limits, over real connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from services.ingest.forms import refusal
from services.ingest.limits import Limits, load_of
from services.ingest.presence import while_present
from visionmesh.errors import VisionmeshError
from visionmesh.http import HttpServer
from visionmesh.settings import IngestSettings

MEBIBYTE = 1 << 20
SETTINGS = IngestSettings(max_request_bytes=MEBIBYTE, max_bytes_in_hand=2 * MEBIBYTE)


async def refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, VisionmeshError)
    return refusal(error)


class Served:
    """An application behind limits, and what it saw."""

    def __init__(self, settings: IngestSettings) -> None:
        self.entered = 0
        self.cancelled = 0
        self.released = asyncio.Event()
        routes = [
            Route("/v1/size", self.size, methods=["POST"]),
            Route("/v1/ignore", self.ignore, methods=["POST"]),
            Route("/v1/wait", self.wait, methods=["POST"]),
            Route("/v1/fetch", self.fetch, methods=["POST"]),
            Route("/healthz", self.ignore),
        ]
        app = Starlette(routes=routes, exception_handlers={VisionmeshError: refuse})
        self.limits = Limits(app=app, settings=settings, streamed=("/v1/size/streamed",))
        app.add_route("/v1/size/streamed", self.count, methods=["POST"])
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def size(self, request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    async def count(self, request: Request) -> Response:
        size = 0
        async for piece in request.stream():
            size += len(piece)
        return PlainTextResponse(str(size))

    async def ignore(self, request: Request) -> Response:
        return PlainTextResponse("ignored")

    async def fetch(self, request: Request) -> Response:
        load_of(request.scope).add(3 * MEBIBYTE)
        return PlainTextResponse("fetched")

    async def wait(self, request: Request) -> Response:
        size = len(await request.body())
        self.entered += 1

        async def work() -> None:
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise

        await while_present(request.receive, work())
        return PlainTextResponse(str(size))


@asynccontextmanager
async def serving(settings: IngestSettings) -> AsyncIterator[Served]:
    served = Served(settings)
    server = HttpServer(app=served.limits, host="127.0.0.1", port=0)
    served.port = await server.start()
    try:
        yield served
    finally:
        await server.stop()


def code(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["code"])


async def exchange(port: int, sent: bytes, *, eof: bool = False) -> bytes:
    """Return all that comes until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    try:
        await writer.drain()
        if eof:
            writer.write_eof()
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()
