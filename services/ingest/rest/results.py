"""Results of events: one by its id, or all as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime, timedelta

from fastapi import APIRouter, Request, Response
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from pydantic import AwareDatetime, Field

from services.ingest.door import Caller, Right, caller_of
from services.ingest.forms import refusal
from services.ingest.presence import while_present
from services.ingest.rest import documents
from visionmesh import subjects
from visionmesh.bus import Connection, Delivery, Follower, origin
from visionmesh.bus.api import stored_message
from visionmesh.contracts import Frozen, Result
from visionmesh.errors import Code, Refused, Reject, VisionmeshError
from visionmesh.events import parse_id
from visionmesh.http import Receive, Scope, Send
from visionmesh.tasks import end

LONGEST = timedelta(seconds=60)
"""How long a request waits for one result."""
STREAMS = 64
"""Readers of results at once."""
WAITING = 1024
"""Requests at once that wait for one result each."""
SILENCE = timedelta(seconds=15)
"""After which a reader is told that there is nothing new, so that nobody on the way hangs up."""

_SHADOW = "shadow-"
_LAST = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "description": "The `id` of the last result that was read; the next one is the first.",
    "schema": {"type": "string", "pattern": "^[0-9]{1,18}$"},
}


class _One(Frozen):
    model: str | None = Field(None, pattern=documents.NAME, description="Of the event.")
    source: str | None = Field(None, pattern=documents.NAME, description="Of the event.")
    timeout: float = Field(
        0.0, ge=0.0, le=LONGEST.total_seconds(), description="Seconds to wait for it."
    )


class _Many(Frozen):
    model: str | None = Field(None, pattern=documents.NAME, description="Only of this model.")
    source: str | None = Field(None, pattern=documents.NAME, description="Only of this source.")
    since: AwareDatetime | None = Field(
        None, description="Begin with those stored then; by default with the next one."
    )


class Readers:
    """Those who read results by HTTP; their streams end when `stop` is called."""

    def __init__(self, *, connection: Connection) -> None:
        self._connection = connection
        self._ending: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._streams = 0
        self._waiting = 0

    def stop(self) -> None:
        if not self._ending.done():
            self._ending.set_result(None)

    async def one(self, subject: str, within: timedelta) -> bytes | None:
        """Return the result under ``subject``, which may have wildcards; `None`: not in that time.

        Raises
        ------
        Refused
            (mesh_full) if too many wait already; (mesh_unreachable).
        Retry
            (mesh_unreachable).
        """
        nc = self._connection.client
        if not within:
            return await _stored(nc, subject)
        if self._waiting >= WAITING:
            raise Refused(Code.MESH_FULL, "Too many requests wait for results; try again.")
        self._waiting += 1
        try:
            return await self._arriving(nc, subject, within)
        finally:
            self._waiting -= 1

    async def _arriving(self, nc: Client, subject: str, within: timedelta) -> bytes | None:
        arrived: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def tell(message: Msg) -> None:
            if not arrived.done() and not _is_shadow(message.subject, subject):
                arrived.set_result(message.data)

        try:
            subscription = await nc.subscribe(subject, cb=tell)
        except NatsError as error:
            why = f"The NATS server takes no readers of results now: {error!r}."
            raise Refused(Code.MESH_UNREACHABLE, why) from error
        try:
            # Only now, or it might come between the two.
            if (stored := await _stored(nc, subject)) is not None:
                return stored
            waiting = (arrived, self._ending)
            await asyncio.wait(
                waiting, timeout=within.total_seconds(), return_when=asyncio.FIRST_COMPLETED
            )
            return arrived.result() if arrived.done() else None
        finally:
            if nc.is_connected:
                await subscription.unsubscribe()

    async def open(self, subject: str, *, since: datetime | None, after: int | None) -> Follower:
        """Return a started reader, for `frames`, and then for `close`.

        Raises
        ------
        Refused
            (mesh_full) if too many read already.
        """
        if self._streams >= STREAMS:
            raise Refused(Code.MESH_FULL, f"{STREAMS} readers of results are enough; try later.")
        follower = Follower(
            connection=self._connection,
            stream=subjects.RESULTS,
            subject=subject,
            since=since,
            after=after,
        )
        self._streams += 1
        try:
            await follower.start()
        except BaseException:
            await self.close(follower)
            raise
        return follower

    async def close(self, follower: Follower) -> None:
        self._streams -= 1
        await follower.stop()

    async def frames(
        self, follower: Follower, caller: Caller, model: str
    ) -> AsyncGenerator[bytes, None]:
        """Yield server-sent events until the caller may not read any more, or this worker ends."""
        yield b"retry: 1000\n\n"
        while True:
            arriving = asyncio.create_task(follower.next(within=SILENCE))
            try:
                either = (arriving, self._ending)
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if not arriving.done():
                    return
                delivery = arriving.result()
            finally:
                await end([arriving])
            try:
                caller.require(Right.READ, model)
            except Refused:
                return
            yield b":\n\n" if delivery is None else _frame(delivery)


class EventStream(Response):
    """Server-sent events for as long as the client is there."""

    media_type = "text/event-stream"

    def __init__(self, *, readers: Readers, follower: Follower, caller: Caller, model: str) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["Content-Length"]
        self._readers = readers
        self._follower = follower
        self._frames = readers.frames(follower, caller, model)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_present(receive, self._send(send))
        finally:
            await self._readers.close(self._follower)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(self._frames) as frames:
            async for frame in frames:
                await send({"type": "http.response.body", "body": frame, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def result_routes(readers: Readers) -> APIRouter:
    """Return the routes that read results."""
    router = APIRouter()

    @router.get(
        "/v1/results",
        status_code=200,
        response_class=EventStream,
        responses={
            200: {
                "description": "`id` is a result's place, `data` the result.",
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
            },
            **documents.errors(Code.INVALID_REQUEST, Code.MESH_UNREACHABLE),
        },
        openapi_extra={"parameters": [*documents.in_query(_Many), _LAST]},
    )
    async def follow(request: Request) -> Response:
        """Tell results as they are stored, for ever, as server-sent events.

        Who comes back with `Last-Event-ID`, as browsers do, misses none.
        """
        try:
            query = documents.read_query(_Many, request.query_params)
            caller = caller_of(request.scope)
            model = query.model or "*"
            caller.require(Right.READ, model)
            follower = await readers.open(
                f"vm.results.{model}.{query.source or '*'}.*",
                since=query.since,
                after=_place(request.headers.get("last-event-id")),
            )
        except VisionmeshError as error:
            return refusal(error)
        return EventStream(readers=readers, follower=follower, caller=caller, model=model)

    @router.get(
        "/v1/results/{id:path}",
        response_model=Result,
        responses=documents.errors(
            Code.INVALID_REQUEST, Code.INVALID_ID, Code.NOT_FOUND, Code.MESH_UNREACHABLE
        ),
        openapi_extra={
            "parameters": [
                documents.in_path("id", minLength=1, maxLength=256),
                *documents.in_query(_One),
            ]
        },
    )
    async def result(request: Request) -> Response:
        """Tell the result of an event, or 404 if there is none yet.

        Ids are unique within their model and source; without these it is the oldest of that id.
        """
        try:
            id = parse_id(request.path_params["id"])
            query = documents.read_query(_One, request.query_params)
            caller_of(request.scope).require(Right.READ, query.model or "*")
            subject = subjects.result(query.model or "*", query.source or "*", id)
            waiting = readers.one(subject, timedelta(seconds=query.timeout))
            found = await while_present(request.receive, waiting)
            if found is None:
                raise Refused(Code.NOT_FOUND, "There is no result of that id (yet).")
        except VisionmeshError as error:
            return refusal(error)
        return Response(found, media_type="application/json")

    return router


async def _stored(nc: Client, subject: str) -> bytes | None:
    sequence = 0
    while True:
        message = await stored_message(nc, subjects.RESULTS, seq=sequence + 1, next_by_subj=subject)
        if message is None:
            return None
        headers = message.headers or {}
        if not _is_shadow(headers["Nats-Subject"], subject):
            data: bytes = message.data
            return data
        sequence = int(headers["Nats-Sequence"])


def _is_shadow(found: str, asked: str) -> bool:
    """Say whether a result is a shadow's that was not asked for: it has the id of the image's."""
    return asked.split(".")[3] == "*" and found.split(".")[3].startswith(_SHADOW)


def _frame(delivery: Delivery) -> bytes:
    return b"id: %d\ndata: %s\n\n" % (origin(delivery.ack).sequence, delivery.body)


def _place(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < len(str(2**63))):
        raise Reject(Code.INVALID_REQUEST, "Last-Event-ID is not one that was sent from here.")
    return int(text)
