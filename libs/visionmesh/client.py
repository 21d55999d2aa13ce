"""What producers and consumers use.

async with Mesh("nats://127.0.0.1:4222") as mesh:
    result = await mesh.infer("board-defects", "board.png")
    async for result in mesh.infer_many("board-defects", Path("boards").glob("*.png")):
        print(result.id, result.detections)
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Self

from visionmesh import subjects
from visionmesh.bus import Connection
from visionmesh.bus.api import stored_message
from visionmesh.contracts import Params, Priority, Result
from visionmesh.errors import Code, Refused
from visionmesh.events import Event, parse_id
from visionmesh.heatmaps import HeatmapStore
from visionmesh.many import call_many
from visionmesh.nodes import NodeRecord, list_nodes
from visionmesh.pictures_in import Picture, encoded
from visionmesh.publishing import Producer
from visionmesh.results import ResultReader, arrival, next_message

DEFAULT_URL = "nats://127.0.0.1:4222"
DEFAULT_TIMEOUT = timedelta(seconds=30)

_NOT_AGAIN = timedelta(0)


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
        self._producer = Producer(connection=self._connection)
        await self._producer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()

    async def publish(
        self,
        model: str,
        image: Picture,
        *,
        source: str = "default",
        id: str | None = None,
        params: Params | Mapping[str, float] | None = None,
        deadline: datetime | timedelta | None = None,
        priority: Priority = Priority.NORMAL,
        retry_for: timedelta = _NOT_AGAIN,
        traceparent: str | None = None,
        tracestate: str | None = None,
    ) -> str:
        """Store an image event in the mesh and return its id.

        Parameters
        ----------
        image
            JPEG, PNG, WebP, BMP or TIFF bytes, the path of such a file, ``(H, W, 3) uint8`` RGB
            pixels, or an image of Pillow. Pixels travel unchanged.
        id
            Of the event; a second event with the same id gets no second result. By default new.
        deadline
            When the result is of no more use: a point in time with a zone, or a duration from now.
        retry_for
            How long to try again, after ever longer pauses, while the mesh is full or away.
        traceparent, tracestate
            The W3C context of the caller's span; the trace goes on with the image and its result.

        Raises
        ------
        Refused
            With the code invalid_name, unknown_model, payload_too_large, mesh_full (try again
            later) or mesh_unreachable; nothing was stored then.
        Reject
            If ``id`` is not valid (invalid_id).
        TypeError, ValueError
            If ``image`` or ``params`` is something else, or an array of another shape or type.
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
        await self._producer.store(event, retry_for=retry_for)
        return event.id

    async def infer(
        self,
        model: str,
        image: Picture,
        *,
        source: str = "default",
        id: str | None = None,
        params: Params | Mapping[str, float] | None = None,
        deadline: datetime | timedelta | None = None,
        priority: Priority = Priority.NORMAL,
        timeout: timedelta = DEFAULT_TIMEOUT,  # noqa: ASYNC109 - of the call as its caller sees it
        traceparent: str | None = None,
        tracestate: str | None = None,
    ) -> Result:
        """Publish an image and return its result, whatever its status.

        A mesh that is full or away is tried again within ``timeout``; all else is as for `publish`.

        Raises
        ------
        Refused
            As `publish`; and (timeout) if no result came in time. If the event was stored, its
            result will be on RESULTS.
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
        subject = subjects.result(model, source, event.id)
        stored = "if the image was stored, "
        try:
            async with (
                next_message(self._connection, subject) as arrived,
                asyncio.timeout(timeout.total_seconds()),
            ):
                await self._producer.store(event, retry_for=timeout)
                stored = ""
                message = await arrival(self._connection, arrived, subject)
        except TimeoutError as error:
            raise Refused(
                Code.TIMEOUT,
                f"No result within {timeout.total_seconds():g} s; {stored}it will be on {subject}.",
            ) from error
        return Result.model_validate_json(message.data)

    def infer_many(
        self,
        model: str,
        images: Iterable[Picture] | AsyncIterable[Picture],
        *,
        at_once: int = 32,
        ordered: bool = True,
        source: str = "default",
        params: Params | Mapping[str, float] | None = None,
        deadline: timedelta | None = None,
        priority: Priority = Priority.NORMAL,
        timeout: timedelta = DEFAULT_TIMEOUT,
    ) -> AsyncGenerator[Result, None]:
        """Infer many images, so many ``at_once``, and yield their results.

        ``images`` may be endless; no more is taken of it than goes on. A plain iterator is asked in
        a thread. ``deadline`` and ``timeout`` are those of one image. The ids of the results end in
        the number of their image, from 0.

        Parameters
        ----------
        ordered
            Yield the results in the order of the images, else each as it comes.

        Raises
        ------
        Refused
            As `infer`, for the first image that it is raised for; the others end too.
        """
        name = uuid.uuid4().hex

        async def infer(number: int, image: Picture) -> Result:
            return await self.infer(
                model,
                image,
                source=source,
                id=f"{name}-{number}",
                params=params,
                deadline=deadline,
                priority=priority,
                timeout=timeout,
            )

        return call_many(infer, images, at_once=at_once, ordered=ordered)

    async def result(self, model: str, source: str, event_id: str) -> Result | None:
        """Return the stored result of an event, or `None` if there is none (yet)."""
        subject = subjects.result(model, source, event_id)
        client = self._connection.client
        message = await stored_message(client, subjects.RESULTS, last_by_subj=subject)
        return Result.model_validate_json(message.data) if message is not None else None

    async def results(
        self,
        model: str | None = None,
        *,
        source: str | None = None,
        since: datetime | None = None,
        after: int | None = None,
        ordered: bool = False,
    ) -> AsyncGenerator[Result, None]:
        """Yield results as they are stored, for ever.

        Each reader sees every result; a lost connection is found again without a gap.

        Parameters
        ----------
        since
            Begin with the kept results from then on, and not now.
        after
            Go on behind the `Result.sequence` of the last one that was read, with nothing left out;
            0: with the first one that is kept.
        ordered
            Yield the results of each source in the order in which its events were stored: one that
            is early waits for the others. After 20,000 that wait, the next goes on all the same.

        Raises
        ------
        ValueError
            If both ``since`` and ``after`` are named.
        """
        reader = ResultReader(
            self._connection, model=model, source=source, since=since, after=after, ordered=ordered
        )
        await reader.start()
        try:
            while True:
                yield await reader.next()
        finally:
            await reader.stop()

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
        image: Picture,
        *,
        source: str,
        params: Params | Mapping[str, float] | None,
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
            image=await encoded(image),
            params=Params.model_validate(params or {}),
            priority=priority,
            deadline_ns=int(deadline.timestamp() * 1e9) if deadline is not None else None,
            traceparent=traceparent,
            tracestate=tracestate,
        )
