"""HTTP inside the event loop of a service: the server, and the endpoints that say how it is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

from granian.constants import Interfaces, SSLProtocols
from granian.http import HTTP1Settings, HTTP2Settings
from granian.server.embed import Server

from visionmesh.errors import Code, ConfigurationError
from visionmesh.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
"""An ASGI 3 application; it gets no lifespan events."""

GRACE = timedelta(seconds=5)
"""How long requests in hand may go on after `HttpServer.stop`."""

CANCELLED = timedelta(seconds=1)
"""How long they may then take to end, once cancelled; docker kills 10 s after SIGTERM."""

IDLE = timedelta(seconds=30)
"""How long a client may take to send the head of its next request before it is hung up on."""

BACKLOG = 1024
"""Connections that wait to be accepted, and requests that the application may hold."""

HEAD_BYTES = 64 << 10
"""The largest head of a request that HTTP/2 takes; granian's own bound is 16 MiB."""

STREAMS = 200
"""Requests of one HTTP/2 connection at once; its client waits with more."""

PING = timedelta(seconds=20)
"""After which an HTTP/2 client is asked whether it is still there, and has as long to answer."""

_METHODS = ("GET", "HEAD")
"""That the status endpoints take."""


class Tls(NamedTuple):
    """PEM files: a certificate with those that vouch for it, and its key without a password."""

    certificate: Path
    key: Path


class HttpServer:
    """Serves an ASGI application by HTTP/1.1 and HTTP/2 in the running event loop.

    The sockets are granian's, in a thread of its own; the application runs in the loop. With
    ``tls`` clients speak TLS 1.2 or later, and choose HTTP/2 by ALPN; without, those that know
    that HTTP/2 is spoken begin with it.
    """

    def __init__(
        self, *, app: App, host: str, port: int, tls: Tls | None = None, grace: timedelta = GRACE
    ) -> None:
        self._requests = _Requests(app)
        self._host = host
        self._port = port
        self._tls = tls
        self._grace = grace
        self._server: Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Listen, and return the port, which the system chooses if it was 0.

        Raises
        ------
        ConfigurationError
            If the address does not exist here, the port is taken, or certificate and key cannot be
            read or do not belong together.
        """
        if self._tls is not None:
            _check(self._tls)
        with _reserve(self._host, self._port) as reserved:
            port: int = reserved.getsockname()[1]
            self._server = Server(
                self._requests,
                address=self._host,
                port=port,
                interface=Interfaces.ASGINL,
                websockets=False,
                backlog=BACKLOG,
                http1_settings=HTTP1Settings(header_read_timeout=IDLE // timedelta(milliseconds=1)),
                http2_settings=HTTP2Settings(
                    max_headers_size=HEAD_BYTES,
                    max_concurrent_streams=STREAMS,
                    keep_alive_interval=PING // timedelta(milliseconds=1),
                    keep_alive_timeout=PING // timedelta(seconds=1),
                ),
                ssl_cert=self._tls.certificate if self._tls else None,
                ssl_key=self._tls.key if self._tls else None,
                ssl_protocol_min=SSLProtocols.tls12,
                log_enabled=False,
            )
            self._serving = asyncio.create_task(self._server.serve(), name=f"http:{port}")
            await _listening(self._serving, reserved.getsockname())
        return port

    async def stop(self) -> None:
        """Accept nothing more, let requests in hand end, cancel those that do not, and close."""
        if self._server is None or self._serving is None:
            return
        self._server.stop()
        await asyncio.wait({self._serving}, timeout=self._grace.total_seconds())
        if not self._serving.done():
            self._requests.cancel()
            await asyncio.wait({self._serving}, timeout=CANCELLED.total_seconds())
        if not self._serving.done():
            # granian has no way to abort a connection; the end of the process does it.
            logger.warning("HTTP clients that neither read nor write were left to themselves.")
        self._server = self._serving = None


class _Requests:
    """Passes requests on to the application, and knows which are in hand."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None  # granian runs each request as a task
        self._tasks.add(task)
        try:
            await self._app(scope, receive, send)
        finally:
            self._tasks.discard(task)

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()


def _check(tls: Tls) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            tls.certificate, tls.key, password=_no_password
        )
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigurationError(
            Code.SETTINGS_INVALID,
            f"TLS cannot use {tls.certificate} with {tls.key}: {error}. "
            "Name a PEM certificate and the key that belongs to it.",
        ) from error


def _no_password() -> str:
    raise ValueError("the key is locked with a password")


def _reserve(host: str, port: int) -> socket.socket:
    """Bind without listening, so that a taken port is noticed and a free one stays ours.

    granian binds with SO_REUSEPORT: alone it would share the port with another mesh of the same
    user, and neither would know.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        reserved = socket.socket(family, kind)
    except OSError as error:
        raise ConfigurationError(
            Code.SETTINGS_INVALID, f"{host} is no address to listen on: {error.strerror}."
        ) from error
    try:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(address)
        # Only now: the bind itself must fail where another one listens.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError as error:
        reserved.close()
        raise ConfigurationError(
            Code.SETTINGS_INVALID,
            f"HTTP cannot listen on {host} port {port}: {error.strerror}. "
            "Choose another port, or 0 for any free one.",
        ) from error
    return reserved


async def _listening(serving: asyncio.Task[None], address: tuple[Any, ...]) -> None:
    """Return as soon as the server accepts a connection; raise what it raised if it ended."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address[0], address[0])
    pause = timedelta(milliseconds=2)
    while not serving.done():
        with contextlib.suppress(ConnectionRefusedError):
            _, writer = await asyncio.open_connection(host, address[1])
            writer.close()
            await writer.wait_closed()
            return
        await asyncio.sleep(pause.total_seconds())
    await serving


class StatusApp:
    """The ASGI application of ``/healthz``, ``/readyz`` and ``/metrics``.

    ``/healthz`` is 200 while the event loop lives. ``/readyz`` is 200, or 503 with the reason
    that ``ready`` returns. ``/metrics`` is Prometheus's text format. A service with more to say
    has it answer what its own routes do not.
    """

    def __init__(self, *, metrics: Metrics, ready: Callable[[], str | None]) -> None:
        self._metrics = metrics
        self._ready = ready

    async def __call__(self, scope: Scope, _: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        status, body, content_type = self._answer(scope["path"], scope["method"])
        headers = [
            (b"content-type", content_type.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            headers.append((b"allow", ", ".join(_METHODS).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send(
            {"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body}
        )

    def _answer(self, path: str, method: str) -> tuple[int, bytes, str]:
        text = "text/plain; charset=utf-8"
        if path not in {"/healthz", "/readyz", "/metrics"}:
            return 404, b"not found\n", text
        if method not in _METHODS:
            return HTTPStatus.METHOD_NOT_ALLOWED, b"method not allowed\n", text
        if path == "/metrics":
            return 200, *self._metrics.exposition()
        reason = self._ready() if path == "/readyz" else None
        return (200, b"ok\n", text) if reason is None else (503, f"{reason}\n".encode(), text)


def status_app(*, metrics: Metrics, ready: Callable[[], str | None]) -> App:
    """Return the application that says how a service is; see `StatusApp`."""
    return StatusApp(metrics=metrics, ready=ready)
