"""Results of each source in the order of its events, whatever order they were computed in."""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from datetime import timedelta
from typing import NamedTuple

from nats.aio.client import Client

from visionmesh import subjects
from visionmesh.bus import Connection, Delivery, Follower
from visionmesh.bus.api import ApiError, request, sequence_of
from visionmesh.errors import VisionmeshError

EVENT_HEADER = "Vm-Event-Sequence"
"""On a result: the place in EVENTS of the event that it answers."""

LOOK_EVERY = timedelta(milliseconds=20)
"""Between two looks at what is answered, while it goes on."""
LOOK_CLOSER = timedelta(milliseconds=500)
"""Without any result for so long the event itself is asked for, and its image comes along."""
MOST_HELD = 20_000
"""Results that one reader holds back; of more, the earliest ones go on."""

log = logging.getLogger(__name__)


class Placed(NamedTuple):
    """A result, and the place in RESULTS up to which nothing is held back."""

    delivery: Delivery
    sequence: int


class _Held(NamedTuple):
    event: int
    sequence: int
    delivery: Delivery


class _Source:
    """What is held back of one source.

    EVENTS keeps an event until its result is stored. So a result may go on as soon as no earlier
    event was left there, and all is read that RESULTS had of the source at that moment.
    """

    def __init__(self, model: str, source: str) -> None:
        self.model = model
        self.held: list[_Held] = []
        self.looked = -math.inf
        """When the last look began."""
        self._events = subjects.event(model, source)
        self._results = f"vm.results.{model}.{source}.*"
        self._latest = 0
        self._moved = 0.0
        """When a result went on, or the event was asked for that keeps the others from it."""
        self._bound = 0
        """Earlier events were answered at the last look."""
        self._open = 0
        """The first one that was not, where it was asked for; else 0."""
        self._due = 0
        """Where RESULTS ended then."""

    def hold(self, held: _Held) -> None:
        if not self.held:
            self._moved = time.monotonic()
        heapq.heappush(self.held, held)
        self._latest = max(self._latest, held.event)

    @property
    def look_at(self) -> float:
        """When a look is due (`time.monotonic`)."""
        goes_on = self.looked - self._moved < LOOK_CLOSER.total_seconds()
        return self.looked + (LOOK_EVERY if goes_on else LOOK_CLOSER).total_seconds()

    async def look(self, client: Client, *, floor: int, position: int) -> None:
        """Learn which events are answered, at least all up to ``floor``, and where RESULTS ends."""
        bound, first = floor + 1, 0
        latest, top = self._latest, self.held[0].event
        # The leader is asked, and in this order: a replica may not have heard of the last.
        if top > floor and self.looked - self._moved >= LOOK_CLOSER.total_seconds():
            self._moved = self.looked
            events = self._events
            first = await sequence_of(client, subjects.EVENTS, seq=1, next_by_subj=events) or 0
            bound = max(bound, first or latest + 1)
        last = await sequence_of(client, subjects.RESULTS, last_by_subj=self._results) or 0
        if position < self._due:
            # A busy source must not move its end on and on; but it may have been deleted.
            self._due = min(self._due, last)
        else:
            self._bound, self._due = max(self._bound, bound), last
            self._open = first or self._open

    def free(self, position: int) -> Iterator[_Held]:
        """Take out what may go on for one who has read up to ``position``, in order."""
        if position < self._due:
            return
        # What is answered may not be acknowledged yet.
        while self.held and (self.held[0].event < self._bound or self.held[0].event == self._open):
            yield heapq.heappop(self.held)
            self._moved = time.monotonic()


class Ordered:
    """Reads results from a `Follower`, and holds back those that are ahead of an earlier event's.

    Results of no event, such as a shadow's, go on at once.
    """

    def __init__(self, *, connection: Connection, follower: Follower) -> None:
        self._connection = connection
        self._follower = follower
        self._sources: dict[str, _Source] = {}
        self._waiting: dict[str, _Source] = {}
        """Those of which something is held back."""
        self._free: deque[_Held] = deque()
        self._here: OrderedDict[int, None] = OrderedDict()
        """Places in RESULTS of what is held back or free, the first one first."""

    async def next(self) -> Placed:
        """Return the next result."""
        while not self._free:
            delivery = await self._follower.next(within=self._until_look())
            if delivery is not None:
                self._take(delivery)
            await self._look()
            for key, source in list(self._waiting.items()):
                self._free.extend(source.free(self._follower.position))
                while source.held and len(self._here) > MOST_HELD + len(self._free):
                    self._free.append(heapq.heappop(source.held))
                if not source.held:
                    del self._waiting[key]
        held = self._free.popleft()
        del self._here[held.sequence]
        return Placed(held.delivery, next(iter(self._here), self._follower.position + 1) - 1)

    def _take(self, delivery: Delivery) -> None:
        position = self._follower.position
        self._here[position] = None
        event = delivery.headers.get(EVENT_HEADER, "")
        if not event.isdecimal():
            self._free.append(_Held(0, position, delivery))
            return
        _, _, model, name, _ = delivery.subject.split(".", 4)
        key = f"{model}.{name}"
        if key not in self._sources and len(self._sources) >= MOST_HELD:
            self._sources = dict(self._waiting)
        source = self._sources.setdefault(key, _Source(model, name))
        source.hold(_Held(int(event), position, delivery))
        self._waiting[key] = source

    def _until_look(self) -> timedelta | None:
        """Return how long there is nothing to look at; `None`: until something arrives."""
        due = min((source.look_at for source in self._waiting.values()), default=None)
        return timedelta(seconds=max(0.0, due - time.monotonic())) if due is not None else None

    async def _look(self) -> None:
        now, position, client = time.monotonic(), self._follower.position, self._connection.client
        due = [source for source in self._waiting.values() if source.look_at <= now]
        for source in due:
            source.looked = now
        try:
            models = {source.model for source in due}
            floors = {model: await acknowledged(client, model) for model in models}
            looks = (one.look(client, floor=floors[one.model], position=position) for one in due)
            await asyncio.gather(*looks)
        except VisionmeshError as error:
            log.warning("What is answered cannot be told now: %s", error)


async def acknowledged(client: Client, model: str) -> int:
    """Return the event of ``model`` up to which all are answered, of whatever source."""
    try:
        # The name that `topology.events_consumer` gives it.
        consumer = await request(client, f"CONSUMER.INFO.{subjects.EVENTS}.ingest_{model}")
    except ApiError:  # the model was removed
        return 0
    return int(consumer["ack_floor"]["stream_seq"])
