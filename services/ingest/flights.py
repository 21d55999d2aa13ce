"""Single flight: identical images that arrive while the first one is on its way wait for it."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta

from nats.aio.msg import Msg
from pydantic import ValidationError

from visionmesh.bus import Connection
from visionmesh.bus.api import stored_message
from visionmesh.contracts import Reference, Result
from visionmesh.subjects import RESULTS
from visionmesh.subjects import result as result_subject

MAX_FLIGHTS = 4096


@dataclass(slots=True)
class Flight:
    """The first of some identical images, and where its result will be told."""

    id: str
    subject: str
    began: float
    landing: asyncio.Future[Result | None] | None = None


class Flights:
    """Knows which images this worker has sent on their way.

    An image without company costs one entry and no message: only when a second one comes does this
    worker listen to the first one's result, and looks whether it has been stored already.
    """

    def __init__(self, *, connection: Connection, patience: timedelta) -> None:
        self._connection = connection
        self._patience = patience.total_seconds()
        self._flights: OrderedDict[str, Flight] = OrderedDict()
        self._keys: dict[str, str] = {}
        """The key of each flight by the subject of its result."""

    def join(self, reference: Reference) -> Flight | None:
        """Return the flight to wait for, or `None` if ``reference`` is the first: it leads now."""
        assert reference.result_key is not None
        flight = self._flights.get(reference.result_key)
        now = time.monotonic()
        if flight is None or flight.id == reference.id or now - flight.began > self._patience:
            self._lead(reference, now)
            return None
        return flight

    def _lead(self, reference: Reference, now: float) -> None:
        assert reference.result_key is not None
        subject = reference.reply or result_subject(reference.model, reference.source, reference.id)
        if (before := self._flights.pop(reference.result_key, None)) is not None:
            del self._keys[before.subject]
        self._flights[reference.result_key] = Flight(reference.id, subject, now)
        self._keys[subject] = reference.result_key
        if len(self._flights) > MAX_FLIGHTS:
            _, oldest = self._flights.popitem(last=False)
            del self._keys[oldest.subject]

    def forget(self, subject: str) -> None:
        """Let the next image of the kind whose result ``subject`` tells lead."""
        key = self._keys.pop(subject, None)
        if key is not None:
            del self._flights[key]

    async def landed(self, flight: Flight) -> Result | None:
        """Wait for the flight's result; `None` if it does not come in time."""
        if flight.landing is None:
            flight.landing = asyncio.ensure_future(self._await(flight.subject))
        return await asyncio.shield(flight.landing)

    async def _await(self, subject: str) -> Result | None:
        arrived: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()

        async def tell(message: Msg) -> None:
            if not arrived.done():
                arrived.set_result(message)

        subscription = await self._connection.client.subscribe(subject, cb=tell)
        try:
            stored = await stored_message(self._connection.client, RESULTS, last_by_subj=subject)
            if stored is not None:
                return _read(stored)
            async with asyncio.timeout(self._patience):
                return _read(await arrived)
        except TimeoutError:
            return None
        finally:
            await subscription.unsubscribe()


def _read(message: Msg) -> Result | None:
    try:
        return Result.model_validate_json(message.data)
    except ValidationError:
        return None  # a request to send the leader again: it was no landing
