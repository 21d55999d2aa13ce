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
from visionmesh.errors import Retry
from visionmesh.subjects import RESULTS
from visionmesh.subjects import result as result_subject

MAX_FLIGHTS = 4096

Landing = asyncio.Future[bytes | None]


@dataclass(slots=True)
class Flight:
    """The first of some identical images, and how its result is heard of."""

    id: str
    subject: str
    """Of its result, or of its caller's inbox."""
    received_ns: int
    began: float
    landing: Landing | None
    """Of a caller's image from the beginning; of an event's when somebody waits for it."""


class Flights:
    """Knows which images this worker has sent on their way.

    An image without company costs one entry and no message: only when a second one comes does this
    worker listen to the first one's result, and looks whether it has been stored already. The
    answer to a caller passes through this worker anyway: `land` tells it.
    """

    def __init__(self, *, connection: Connection, patience: timedelta) -> None:
        self._connection = connection
        self._patience = patience
        self._flights: OrderedDict[str, Flight] = OrderedDict()
        self._keys: dict[str, str] = {}
        """The result key of each flight by its subject."""

    def join(self, reference: Reference) -> Flight | None:
        """Return the flight to wait for, or `None` if ``reference`` is the first: it leads now."""
        assert reference.result_key is not None
        flight = self._flights.get(reference.result_key)
        now = time.monotonic()
        if (
            flight is None
            or flight.id == reference.id
            or now - flight.began > self._patience.total_seconds()
        ):
            self._lead(reference, now)
            return None
        return flight

    def land(self, subject: str, body: bytes | None) -> None:
        """Tell who waits for a caller's image its result; with `None` one of them leads next."""
        flight = self._flights.get(self._keys.get(subject, ""))
        self.forget(subject)
        if flight is not None and flight.landing is not None and not flight.landing.done():
            flight.landing.set_result(body)

    def forget(self, subject: str) -> None:
        """Let the next image of the kind whose result ``subject`` tells lead."""
        key = self._keys.pop(subject, None)
        if key is not None:
            self._flights.pop(key, None)

    async def landed(self, flight: Flight) -> Result | None:
        """Wait for the flight's result; `None` if it does not come in time."""
        if flight.landing is None:
            hearing = hear(
                self._connection,
                flight.subject,
                since_ns=flight.received_ns,
                patience=self._patience,
            )
            flight.landing = asyncio.ensure_future(hearing)
        await asyncio.wait((flight.landing,), timeout=self._patience.total_seconds())
        body = flight.landing.result() if flight.landing.done() else None
        return read_result(body) if body is not None else None

    def _lead(self, reference: Reference, now: float) -> None:
        assert reference.result_key is not None
        subject = reference.reply or result_subject(reference.model, reference.source, reference.id)
        landing = asyncio.get_running_loop().create_future() if reference.reply else None
        before = self._flights.pop(reference.result_key, None)
        if before is not None:
            self._keys.pop(before.subject, None)
        self._flights[reference.result_key] = Flight(
            reference.id, subject, reference.received_ns, now, landing
        )
        self._keys[subject] = reference.result_key
        if len(self._flights) > MAX_FLIGHTS:
            _, oldest = self._flights.popitem(last=False)
            self._keys.pop(oldest.subject, None)


async def hear(
    connection: Connection, subject: str, *, since_ns: int, patience: timedelta
) -> bytes | None:
    """Return the result that ``subject`` gets, or got after ``since_ns``; none if it gets none."""
    arrived: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()

    async def tell(message: Msg) -> None:
        if not arrived.done():
            arrived.set_result(message)

    client = connection.client
    subscription = await client.subscribe(subject, cb=tell)
    try:
        stored = await stored_message(client, RESULTS, last_by_subj=subject)
        result = read_result(stored.data) if stored is not None else None
        # An event of the same id may have been answered long before this one came.
        if stored and result and result.time.timestamp() * 1e9 >= since_ns:
            return bytes(stored.data)
        async with asyncio.timeout(patience.total_seconds()):
            return bytes((await arrived).data)
    except (TimeoutError, Retry):
        return None
    finally:
        await subscription.unsubscribe()


def read_result(body: bytes) -> Result | None:
    """Return the result in ``body``; none if another release wrote it."""
    try:
        return Result.model_validate_json(body)
    except ValidationError:
        return None
