"""What producers and consumers use.

async with Mesh("nats://127.0.0.1:4222") as mesh:
    result = await mesh.infer("board-defects", Path("board.png"))
    async for result in mesh.results("board-defects"):
        print(result.id, result.detections)
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from nats.aio.msg import Msg

from visionmesh import subjects
from visionmesh.bus import Connection, Follower, Publisher
from visionmesh.bus.api import stored_message
from visionmesh.contracts import Params, Priority, Result
from visionmesh.errors import Code, Refused, Retry
from visionmesh.events import Event, parse_id
from visionmesh.heatmaps import HeatmapStore
from visionmesh.nodes import NodeRecord, list_nodes

DEFAULT_URL = "nats://127.0.0.1:4222"
DEFAULT_TIMEOUT = timedelta(seconds=30)

_LISTENS_WITHIN = timedelta(seconds=5)
"""How long ingest may take to hear of a model that was just pushed."""
_AGAIN = timedelta(milliseconds=50)
"""Between two tries meanwhile."""
_LOOK_EVERY = timedelta(seconds=5)
"""For a result that a lost connection may have swallowed."""

Image = bytes | bytearray | memoryview | Path | str
"""An encoded image, or the path of one."""


class Mesh:
    """A connection to a mesh: publish images, wait for results, follow them."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        name: str = "visionmesh client",
        connect_within: timedelta = timedelta(seconds=10),
    ) -> None:
        self._url = url
        self._name = name
        self._connect_within = connect_within

    async def __aenter__(self) -> Self:
        self._connection = await Connection.open(
            self._url, name=self._name, within=self._connect_within
        )
        self._publisher = Publisher(connection=self._connection)
        await self._publisher.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()

    async def publish(
        self,
        model: str,
        image: Image,
        *,
        source: str = "default",
        id: str | None = None,
        params: Params | None = None,
        deadline: datetime | timedelta | None = None,
        priority: Priority = Priority.NORMAL,
        traceparent: str | None = None,
        tracestate: str | None = None,
    ) -> str:
        """Store an image event in the mesh and return its id.

        Parameters
        ----------
        image
            JPEG, PNG, WebP, BMP or TIFF bytes, or the path of such a file.
        id
            Of the event; a second event with the same id gets no second result. By default new.
        deadline
            When the result is of no more use: a point in time with a zone, or a duration from now.
        traceparent, tracestate
            The W3C context of the caller's span; the trace goes on with the image and its result.

        Raises
        ------
        Refused
            With the code invalid_name, unknown_model, payload_too_large, mesh_full (try again
            later) or mesh_unreachable; nothing was stored then.
        Reject
            If ``id`` is not valid (invalid_id).
        """
        event = await self._event(
            model,
            image,
            source=source,
            params=params,
            deadline=deadline,
            priority=priority,
            event_id=id,
            traceparent=traceparent,
            tracestate=tracestate,
        )
        await self._store(event)
        return event.id

    async def infer(
        self,
        model: str,
        image: Image,
        *,
        source: str = "default",
        params: Params | None = None,
        deadline: datetime | timedelta | None = None,
        priority: Priority = Priority.NORMAL,
        timeout: timedelta = DEFAULT_TIMEOUT,  # noqa: ASYNC109 - of the call as its caller sees it
    ) -> Result:
        """Publish an image and return its result, whatever its status.

        Raises
        ------
        Refused
            As `publish`; and (timeout) if no result came in time. The event is still in the mesh
            then, and its result will be on RESULTS.
        """
        event = await self._event(
            model, image, source=source, params=params, deadline=deadline, priority=priority
        )
        subject = subjects.result(model, source, event.id)
        try:
            async with (
                self._next_message(subject) as arrived,
                asyncio.timeout(timeout.total_seconds()),
            ):
                await self._store(event)
                message = await self._arrival(arrived, subject)
        except TimeoutError as error:
            raise Refused(
                Code.TIMEOUT,
                f"No result within {timeout.total_seconds():g} s; it will be on {subject}.",
            ) from error
        return Result.model_validate_json(message.data)

    async def result(self, model: str, source: str, event_id: str) -> Result | None:
        """Return the stored result of an event, or `None` if there is none (yet)."""
        subject = subjects.result(model, source, event_id)
        client = self._connection.client
        message = await stored_message(client, subjects.RESULTS, last_by_subj=subject)
        return Result.model_validate_json(message.data) if message is not None else None

    async def results(
        self, model: str | None = None, *, source: str | None = None, since: datetime | None = None
    ) -> AsyncGenerator[Result, None]:
        """Yield results as they are stored, for ever; with ``since`` also the kept ones from then.

        Each reader sees every result; a lost connection is found again without a gap.
        """
        model = subjects.require_token("model", model) if model is not None else "*"
        source = subjects.require_token("source", source) if source is not None else "*"
        follower = Follower(
            connection=self._connection,
            stream=subjects.RESULTS,
            subject=f"vm.results.{model}.{source}.*",
            since=since,
        )
        await follower.start()
        try:
            async for delivery in follower:
                yield Result.model_validate_json(delivery.body)
        finally:
            await follower.stop()

    async def heatmap(self, result: Result) -> bytes | None:
        """Return the heat-map of ``result`` as a grey PNG, or `None` if it has none (any more).

        Raises
        ------
        Retry
            If the mesh does not answer now.
        """
        if result.heatmap is None:
            return None
        return await HeatmapStore(self._connection.client).fetch(result.heatmap.sha256)

    async def nodes(self) -> list[NodeRecord]:
        """Return the workers that are alive."""
        return await list_nodes(self._connection.client)

    async def _event(
        self,
        model: str,
        image: Image,
        *,
        source: str,
        params: Params | None,
        deadline: datetime | timedelta | None,
        priority: Priority,
        event_id: str | None = None,
        traceparent: str | None = None,
        tracestate: str | None = None,
    ) -> Event:
        if isinstance(deadline, timedelta):
            deadline = datetime.now(UTC) + deadline
        return Event(
            id=parse_id(event_id) if event_id is not None else uuid.uuid4().hex,
            source=subjects.require_token("source", source),
            model=subjects.require_token("model", model),
            image=await _encoded(image),
            params=params or Params(),
            priority=priority,
            deadline_ns=int(deadline.timestamp() * 1e9) if deadline is not None else None,
            traceparent=traceparent,
            tracestate=tracestate,
        )

    async def _store(self, event: Event) -> None:
        headers = event.headers() | {"Nats-Msg-Id": f"{event.model}/{event.source}/{event.id}"}
        subject = subjects.event(event.model, event.source)
        give_up = time.monotonic() + _LISTENS_WITHIN.total_seconds()
        while True:
            try:
                await self._publisher.publish(
                    subject, event.image, headers=headers, within=DEFAULT_TIMEOUT
                )
                return
            except Refused as error:
                unheard_of = error.code is Code.UNKNOWN_MODEL and time.monotonic() < give_up
                if not unheard_of or not await self._is_pushed(event.model):
                    raise
            await asyncio.sleep(_AGAIN.total_seconds())

    async def _is_pushed(self, model: str) -> bool:
        """Say whether the mesh has ``model``, read as a plain message: producers lack YAML."""
        bucket = subjects.MODELS_BUCKET
        with suppress(Retry):
            record = await stored_message(
                self._connection.client, f"KV_{bucket}", last_by_subj=f"$KV.{bucket}.{model}"
            )
            return record is not None and record.data != b""
        return False

    @asynccontextmanager
    async def _next_message(self, subject: str) -> AsyncIterator[asyncio.Future[Msg]]:
        """Listen to ``subject`` inside the block; yield the future of the first message."""
        arrived: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()

        async def tell(message: Msg) -> None:
            if not arrived.done():
                arrived.set_result(message)

        subscription = await self._connection.client.subscribe(subject, cb=tell)
        try:
            yield arrived
        finally:
            if self._connection.client.is_connected:
                await subscription.unsubscribe()

    async def _arrival(self, arrived: asyncio.Future[Msg], subject: str) -> Msg:
        """Return the message; a subscription may miss it while the connection is away."""
        while True:
            await asyncio.wait((arrived,), timeout=_LOOK_EVERY.total_seconds())
            if arrived.done():
                return arrived.result()
            with suppress(Retry):
                client = self._connection.client
                stored = await stored_message(client, subjects.RESULTS, last_by_subj=subject)
                if stored is not None:
                    return stored


async def _encoded(image: Image) -> bytes:
    if isinstance(image, str | Path):
        return await asyncio.to_thread(Path(image).read_bytes)
    return bytes(image)
