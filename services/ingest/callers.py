"""Synchronous requests: who waits for which answer."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nats.aio.msg import Msg
from numpy.typing import NDArray

from visionmesh.bus import Connection
from visionmesh.contracts import Result, Status
from visionmesh.errors import Code, Miss, Retry
from visionmesh.handover import TENSORS_HEADER, take_over
from visionmesh.settlement import AGAIN_HEADER, STATUS_HEADER
from visionmesh.tensors import Reader


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a request: the document that the caller gets, read only where it must be."""

    body: bytes
    ok: bool
    tensors: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """The network's outputs for this image, without the batch's dimension, if it wants them."""

    @classmethod
    def of(cls, result: Result) -> Reply:
        return cls(result.to_json(), result.status is Status.OK)

    def result(self) -> Result:
        return Result.model_validate_json(self.body)


class Callers:
    """Gives every request a reply subject of this worker's inbox, and its answer."""

    def __init__(self, *, connection: Connection, reader: Reader) -> None:
        self._connection = connection
        self._reader = reader
        self._inbox = connection.client.new_inbox()
        self._numbers = itertools.count()
        self._waiting: dict[str, asyncio.Future[Reply]] = {}

    async def start(self) -> None:
        await self._connection.client.subscribe(f"{self._inbox}.*", cb=self._answered)

    def __len__(self) -> int:
        return len(self._waiting)

    def open(self) -> tuple[str, asyncio.Future[Reply]]:
        """Return a new reply subject and the future of its answer.

        The future raises `Retry` if the image has to be sent again.
        """
        reply = f"{self._inbox}.{next(self._numbers)}"
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[reply] = future
        return reply, future

    def close(self, reply: str) -> None:
        """Forget a request; an answer that still comes is dropped."""
        self._waiting.pop(reply, None)

    async def _answered(self, message: Msg) -> None:
        future = self._waiting.get(message.subject)
        if future is None or future.done():
            return
        headers = message.headers or {}
        again = headers.get(AGAIN_HEADER)
        if again is not None:
            future.set_exception(Retry(message.data.decode(), code=Code(again)))
        elif (head := headers.get(TENSORS_HEADER)) is not None:
            try:
                body, tensors = take_over(head, message.data, self._reader)
            except Miss as error:
                future.set_exception(error)
            else:
                future.set_result(Reply(body, ok=True, tensors=tensors))
        else:
            future.set_result(Reply(message.data, ok=STATUS_HEADER not in headers))
