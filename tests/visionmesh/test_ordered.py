"""Results in the order of their events, against the streams of a real server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from itertools import count

import pytest

from tests.polling import until
from tests.references import make_reference, make_result
from visionmesh import ordered, subjects
from visionmesh.bus import Connection, Delivery, Publisher, Puller, acknowledge, origin, topology
from visionmesh.client import Mesh
from visionmesh.contracts import Result
from visionmesh.settings import EventsSettings

MODEL = "ordered"
_names = count()


class Work:
    """Events that are delivered, and answered when and as a test wants it."""

    def __init__(self, connection: Connection, publisher: Publisher, mesh: Mesh) -> None:
        self.connection = connection
        self.mesh = mesh
        self._publisher = publisher
        self._arrived: asyncio.Queue[Delivery] = asyncio.Queue()
        self.receive = self._arrived.put_nowait

    async def publish(self, source: str, ids: Iterable[int]) -> dict[int, Delivery]:
        """Publish events and return their deliveries by id."""
        for id in ids:
            await self.mesh.publish(MODEL, b"image", source=source, id=str(id))
        taken = [await asyncio.wait_for(self._arrived.get(), 10) for _ in ids]
        return {int(delivery.headers["ce-id"]): delivery for delivery in taken}

    async def store(self, delivery: Delivery) -> None:
        """Store the result of an event, which goes on to wait for its acknowledgement."""
        _, _, model, source = delivery.subject.split(".")
        reference = make_reference(model=model, source=source, id=delivery.headers["ce-id"])
        await self._publisher.publish(
            subjects.result(model, source, reference.id),
            make_result(reference).to_json(),
            headers={ordered.EVENT_HEADER: str(origin(delivery.ack).sequence)},
        )

    async def answer(self, delivery: Delivery) -> None:
        await self.store(delivery)
        await acknowledge(self.connection, delivery.ack)
        await self.connection.client.flush()


@pytest.fixture
async def work(connection: Connection, publisher: Publisher, nats_url: str) -> AsyncIterator[Work]:
    settings = EventsSettings()
    client = connection.client
    await topology.ensure_stream(client, topology.events_config(settings, [MODEL]))
    config = topology.events_consumer(MODEL, window=512, settings=settings)
    async with Mesh(nats_url) as mesh:
        work = Work(connection, publisher, mesh)
        puller = Puller(
            connection=connection,
            stream=subjects.EVENTS,
            declare=lambda: topology.ensure_consumer(client, subjects.EVENTS, config),
            capacity=512,
            receive=work.receive,
        )
        await puller.start()
        yield work
        await puller.stop()
    await client.jetstream().delete_consumer(subjects.EVENTS, config["durable_name"])
    await client.jetstream().purge_stream(subjects.EVENTS)


@pytest.fixture
def source() -> str:
    return f"camera-{next(_names)}"


async def read(results: AsyncGenerator[Result, None], number: int) -> list[Result]:
    async with asyncio.timeout(20):
        return [await anext(results) for _ in range(number)]


def ids(results: Iterable[Result]) -> list[int]:
    return [int(result.id) for result in results]


async def test_waits_for_the_result_of_an_earlier_event(work: Work, source: str) -> None:
    results = work.mesh.results(MODEL, source=source, after=0, ordered=True)
    async with aclosing(results):
        events = await work.publish(source, range(3))
        coming = asyncio.create_task(read(results, 3))
        await work.answer(events[2])
        await work.answer(events[1])
        # Longer than the reader waits before it looks whether the first event is still there.
        done, _ = await asyncio.wait([coming], timeout=2 * ordered.LOOK_CLOSER.total_seconds())
        assert not done
        await work.answer(events[0])
        assert ids(await coming) == [0, 1, 2]


async def test_needs_no_acknowledgement_of_the_event_itself(work: Work, source: str) -> None:
    results = work.mesh.results(MODEL, source=source, after=0, ordered=True)
    async with aclosing(results):
        events = await work.publish(source, range(2))
        await work.store(events[0])
        assert ids(await read(results, 1)) == [0]
        await work.answer(events[1])
        coming = asyncio.create_task(read(results, 1))
        await acknowledge(work.connection, events[0].ack)
        assert ids(await coming) == [1]


async def test_knows_how_far_all_events_of_a_model_are_answered(work: Work, source: str) -> None:
    events = await work.publish(source, range(3))
    for id in (2, 0):
        await work.answer(events[id])
    places = [origin(events[id].ack).sequence for id in range(3)]
    client = work.connection.client

    async def acknowledged(place: int) -> bool:
        return await ordered.acknowledged(client, MODEL) == place

    await until(lambda: acknowledged(places[0]))
    await work.answer(events[1])
    await until(lambda: acknowledged(places[2]))
    assert await ordered.acknowledged(client, "nobody") == 0


async def test_goes_on_where_an_event_left_without_a_result(work: Work, source: str) -> None:
    results = work.mesh.results(MODEL, source=source, after=0, ordered=True)
    async with aclosing(results):
        events = await work.publish(source, range(2))
        await work.answer(events[1])
        coming = asyncio.create_task(read(results, 1))
        await acknowledge(work.connection, events[0].ack)
        assert ids(await coming) == [1]


async def test_many_events_of_many_sources_in_any_order(work: Work) -> None:
    random.seed(7)
    sources = [f"many-{next(_names)}" for _ in range(3)]
    results = work.mesh.results(MODEL, ordered=True)
    async with aclosing(results):
        first = asyncio.create_task(anext(results))
        deliveries = [
            delivery
            for source in sources
            for delivery in (await work.publish(source, range(100))).values()
        ]
        random.shuffle(deliveries)
        answering = asyncio.gather(*(work.answer(delivery) for delivery in deliveries))
        found = [await first, *await read(results, len(deliveries) - 1)]
        await answering
    for source in sources:
        assert ids(result for result in found if result.source == source) == list(range(100))


async def test_results_of_no_event_go_on_at_once(
    work: Work, source: str, publisher: Publisher
) -> None:
    results = work.mesh.results(MODEL, source=source, after=0, ordered=True)
    async with aclosing(results):
        events = await work.publish(source, range(2))
        await work.answer(events[1])
        reference = make_reference(model=MODEL, source=source, id="7")
        await publisher.publish(
            subjects.result(MODEL, source, "7"), make_result(reference).to_json()
        )
        assert ids(await read(results, 1)) == [7]


async def test_reading_on_misses_nothing_that_was_held_back(work: Work, source: str) -> None:
    events = await work.publish(source, range(4))
    for id in (0, 3, 2):
        await work.answer(events[id])
    async with aclosing(work.mesh.results(MODEL, source=source, after=0, ordered=True)) as results:
        (first,) = await read(results, 1)
    await work.answer(events[1])
    again = work.mesh.results(MODEL, source=source, after=first.sequence, ordered=True)
    async with aclosing(again):
        rest = await read(again, 3)
    assert (ids([first]), ids(rest)) == ([0], [1, 2, 3])


async def test_holds_back_no_more_than_so_many(
    work: Work, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordered, "MOST_HELD", 3)
    results = work.mesh.results(MODEL, source=source, after=0, ordered=True)
    async with aclosing(results):
        events = await work.publish(source, range(6))
        for id in (5, 4, 3, 2):
            await work.answer(events[id])
        assert ids(await read(results, 1)) == [2]
        await work.answer(events[0])
        assert ids(await read(results, 1)) == [0]


async def test_each_result_says_where_to_read_on(work: Work, source: str) -> None:
    events = await work.publish(source, range(3))
    for event in events.values():
        await work.answer(event)
    async with aclosing(work.mesh.results(MODEL, source=source, after=0)) as results:
        found = await read(results, 3)
    async with aclosing(work.mesh.results(MODEL, source=source, after=found[0].sequence)) as rest:
        assert await read(rest, 2) == found[1:]
    assert b"sequence" not in found[0].to_json()


async def test_a_place_in_a_stream_that_is_no_more_is_its_beginning(
    work: Work, source: str
) -> None:
    events = await work.publish(source, range(1))
    await work.answer(events[0])
    async with aclosing(work.mesh.results(MODEL, source=source, after=10**9)) as results:
        assert ids(await read(results, 1)) == [0]


async def test_begins_by_time_or_by_place_but_not_by_both(work: Work) -> None:
    result = make_result(make_reference())
    with pytest.raises(ValueError, match="either"):
        await anext(work.mesh.results(MODEL, since=result.time, after=1))
