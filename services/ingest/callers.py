"""Synchronous requests: who waits for which answer."""

from __future__ import annotations

import asyncio
import itertools

from nats.aio.msg import Msg

from visionmesh.bus import Connection
from visionmesh.contracts import Result
from visionmesh.errors import Code, Retry
from visionmesh.settlement import AGAIN_HEADER


class Callers:
    """Gives every request a reply subject of this worker's inbox, and its answer."""

    def __init__(self, *, connection: Connection) -> None:
        self._connection = connection
        self._inbox = connection.client.new_inbox()
        self._numbers = itertools.count()
        self._waiting: dict[str, asyncio.Future[Result]] = {}

    async def start(self) -> None:
        await self._connection.client.subscribe(f"{self._inbox}.*", cb=self._answered)

    def __len__(self) -> int:
        return len(self._waiting)

    def open(self) -> tuple[str, asyncio.Future[Result]]:
        """Return a new reply subject and the future of its answer.

        The future raises `Retry` if the image has to be sent again.
        """
        reply = f"{self._inbox}.{next(self._numbers)}"
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting[reply] = future
        return reply, future

    def close(self, reply: str) -> None:
        """Forget a request; an answer that still comes is dropped."""
        self._waiting.pop(reply, None)

    async def _answered(self, message: Msg) -> None:
        future = self._waiting.get(message.subject)
        if future is None or future.done():
            return
        again = (message.headers or {}).get(AGAIN_HEADER)
        if again is not None:
            future.set_exception(Retry("The image was lost on its way.", code=Code(again)))
        else:
            future.set_result(Result.model_validate_json(message.data))
