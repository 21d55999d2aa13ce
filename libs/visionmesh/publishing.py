"""How events get into a mesh: stored once, and tried again where that does no harm."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta

from visionmesh import subjects
from visionmesh.bus import Connection, Publisher
from visionmesh.bus.api import stored_message
from visionmesh.errors import Code, Refused, Retry
from visionmesh.events import Event

STORE_WITHIN = timedelta(seconds=30)
"""How long a lost connection is waited out."""
LISTENS_WITHIN = timedelta(seconds=5)
"""How long ingest may take to hear of a model that was just pushed."""
AGAIN = timedelta(milliseconds=50)
"""Between two tries meanwhile, and the first pause where a mesh is full."""
LONGEST_PAUSE = timedelta(seconds=2)

_PASSES = frozenset({Code.MESH_FULL, Code.MESH_UNREACHABLE})
"""What may be over soon. Nothing was stored then, or it has this very id: so it may be sent again,
and there will be one result."""


class Producer:
    """Stores events; has an event of the same id stored once only."""

    def __init__(self, *, connection: Connection) -> None:
        self._connection = connection
        self._publisher = Publisher(connection=connection)

    async def start(self) -> None:
        await self._publisher.start()

    async def store(self, event: Event, *, retry_for: timedelta = timedelta(0)) -> None:
        """Store ``event``; a mesh that is full or away is tried again for so long.

        Raises
        ------
        Refused
            As `Mesh.publish` says.
        """
        headers = once(event)
        subject = subjects.event(event.model, event.source)
        began = time.monotonic()
        pauses = _pauses()
        while True:
            try:
                await self._publisher.publish(
                    subject, event.image, headers=headers, within=STORE_WITHIN
                )
                return
            except Refused as error:
                passed = timedelta(seconds=time.monotonic() - began)
                pause = next(pauses) if error.code in _PASSES else AGAIN
                again = passed + pause < retry_for and error.code in _PASSES
                if error.code is Code.UNKNOWN_MODEL and passed < LISTENS_WITHIN:
                    again = await self._is_pushed(event.model)
                if not again:
                    raise
            await asyncio.sleep(pause.total_seconds())

    async def _is_pushed(self, model: str) -> bool:
        """Say whether the mesh has ``model``, read as a plain message: producers lack YAML."""
        bucket = subjects.MODELS_BUCKET
        with suppress(Retry):
            record = await stored_message(
                self._connection.client, f"KV_{bucket}", last_by_subj=f"$KV.{bucket}.{model}"
            )
            return record is not None and record.data != b""
        return False


def once(event: Event) -> dict[str, str]:
    """Return the headers by which ``event`` is stored once, however often it is published."""
    return event.headers() | {"Nats-Msg-Id": f"{event.model}/{event.source}/{event.id}"}


def _pauses() -> Iterator[timedelta]:
    """Yield ever longer pauses, each by chance, so that producers do not come back together."""
    most = AGAIN
    while True:
        yield most * random.uniform(0.5, 1.0)
        most = min(2 * most, LONGEST_PAUSE)
