"""How much of a client's requests is taken, and how slowly it may send them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

from services.ingest.forms import refusal_of
from services.ingest.presence import Gone
from visionmesh.errors import Code, Refused, Reject, VisionmeshError
from visionmesh.http import App, Message, Receive, Scope, Send
from visionmesh.settings import IngestSettings

PATIENCE = 4
"""So many times the largest request is read away, so that the client hears why it is refused."""

_LOAD = "visionmesh.load"
_HUNG_UP = "The connection was ended before the answer; keep it open in both directions."
_STATUS = frozenset({"/healthz", "/metrics"})
"""That are answered until the end."""


class Total:
    """Bytes that all requests hold together."""

    def __init__(self, *, most: int) -> None:
        self.most = most
        self.held = 0


class Load:
    """Bytes that one request holds: its body, and what was fetched for it."""

    def __init__(self, *, total: Total, most: int) -> None:
        self._total = total
        self._most = most
        self._held = 0

    def add(self, nbytes: int) -> None:
        """Count ``nbytes`` more.

        Raises
        ------
        Reject
            (payload_too_large) if that is more than one request may hold.
        Refused
            (mesh_full) if it is more than there is room for now.
        """
        self.check(nbytes)
        if self._total.held + nbytes > self._total.most:
            raise Refused(Code.MESH_FULL, "Too many large requests are in hand; try again later.")
        self._held += nbytes
        self._total.held += nbytes

    def check(self, nbytes: int) -> None:
        """Raise what `add` would of ``nbytes`` that are to come, if they are too many ever."""
        if self._held + nbytes > self._most:
            raise Reject(
                Code.PAYLOAD_TOO_LARGE,
                f"A request may hold {self._most:,} bytes; send fewer or smaller images at once.",
            )

    def drop(self) -> None:
        """Forget what was counted: the request is over."""
        self._total.held -= self._held
        self._held = 0


def load_of(scope: Scope) -> Load:
    """Return what the request holds, to count more on it."""
    load = scope[_LOAD]
    assert isinstance(load, Load)
    return load


class Limits:
    """Bounds what requests hold and how long their bodies take.

    What a client does wrong is raised by ``receive`` inside ``app``, which answers in the form of
    its protocol: `Reject` (payload_too_large), `Refused` (mesh_full, request_timeout), and
    `presence.Gone`. These, and all other errors that ``app`` lets pass, are answered here.

    Parameters
    ----------
    streamed
        How the paths begin whose bodies go to a disk piece by piece: they may be of any size, and
        the time for a body is one for each piece.
    """

    def __init__(self, *, app: App, settings: IngestSettings, streamed: Sequence[str] = ()) -> None:
        self._app = app
        self._settings = settings
        self._streamed = tuple(streamed)
        self._total = Total(most=settings.max_bytes_in_hand)
        self._draining = False

    @property
    def bytes_in_hand(self) -> int:
        return self._total.held

    def drain(self) -> None:
        """Take no more requests; who asks is told to come again."""
        self._draining = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        load = Load(total=self._total, most=self._settings.max_request_bytes)
        scope[_LOAD] = load
        streamed = bool(self._streamed) and scope["path"].startswith(self._streamed)
        request = _Request(
            scope=scope,
            receive=receive,
            send=send,
            load=None if streamed else load,
            timeout=self._settings.body_timeout,
            readable=PATIENCE * self._settings.max_request_bytes,
        )
        try:
            if self._draining and scope["path"] not in _STATUS:
                raise Refused(Code.MESH_FULL, "This worker ends; try again.")
            await self._app(scope, request.receive, request.send)
        except Gone:
            # Who has closed one half of the connection only is still there to be told.
            await request.refuse(Refused(Code.INVALID_REQUEST, _HUNG_UP))
        except VisionmeshError as error:
            await request.refuse(error)
        finally:
            load.drop()


class _Request:
    """One request: what came of its body, and whether it was answered."""

    def __init__(
        self,
        *,
        scope: Scope,
        receive: Receive,
        send: Send,
        load: Load | None,
        timeout: timedelta,
        readable: int,
    ) -> None:
        headers = dict(scope["headers"])
        self._scope = scope
        self._receive = receive
        self._send = send
        self._load = load
        self._timeout = timeout.total_seconds()
        self._until = asyncio.get_running_loop().time() + self._timeout
        self._readable = readable
        self._declared = int(headers.get(b"content-length", b"0"))
        self._first_version = scope["http_version"].startswith("1")
        self._whole = (
            self._first_version and not self._declared and b"transfer-encoding" not in headers
        )
        self._held_back = b"expect" in headers
        """The client sends its body when it is told to: by the first message that is awaited."""
        self._gone = False
        self._answered = False

    async def receive(self) -> Message:
        if self._whole:
            message = await self._receive()
            self._gone = message["type"] == "http.disconnect"
            return message
        if self._load is not None:
            self._load.check(self._declared)
            self._declared = 0
        message = await self._next()
        if self._load is not None:
            self._load.add(len(message["body"]))
        else:
            self._until = asyncio.get_running_loop().time() + self._timeout
        return message

    async def send(self, message: Message) -> None:
        if self._gone:
            raise Gone  # it would be swallowed, and a stream never end
        if not self._answered:
            self._answered = True
            if not self._whole:
                await self._read_away()
            if not self._whole and self._first_version:
                # What it still sends is no request.
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
        await self._send(message)

    async def refuse(self, error: VisionmeshError) -> None:
        """Answer with ``error`` if nothing was answered yet."""
        if not self._answered:
            if self._gone:
                self._gone, self._held_back = False, True
            answer = refusal_of(self._scope["path"], error)
            await answer(self._scope, self.receive, self.send)

    async def _next(self) -> Message:
        self._held_back = False
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError as error:
            raise Refused(
                Code.REQUEST_TIMEOUT,
                f"The request did not arrive within {self._timeout:g} s; send it faster.",
            ) from error
        if message["type"] == "http.disconnect":
            self._gone = True
            raise Gone
        self._whole = not message.get("more_body", False)
        return message

    async def _read_away(self) -> None:
        """Read the rest of the body: who sends it hears the answer only then."""
        size = 0
        now = asyncio.get_running_loop().time
        while not (self._whole or self._held_back or self._gone) and size < self._readable:
            if now() >= self._until:
                return
            with suppress(Refused):
                size += len((await self._next())["body"])
