"""Identical images: one leads, the others wait for its result on a real server."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta

import pytest

from services.ingest.flights import MAX_FLIGHTS, Flight, Flights
from tests.references import make_reference, make_result
from visionmesh import subjects
from visionmesh.bus import Connection, Message, Publisher
from visionmesh.contracts import Reference, Result

PATIENCE = timedelta(seconds=20)
IMPATIENCE = timedelta(milliseconds=50)
_keys = itertools.count()


@pytest.fixture
def flights(connection: Connection) -> Flights:
    return Flights(connection=connection, patience=PATIENCE)


@pytest.fixture
def key() -> str:
    return f"key-{next(_keys)}"


def image(key: str, **changes: object) -> Reference:
    """Return the reference of an image; those with one ``key`` are identical."""
    return make_reference(model="flights", result_key=key, **changes)


def lead(flights: Flights, leader: Reference) -> Flight:
    """Let ``leader`` lead, and return the flight that a twin of it joins."""
    assert leader.result_key is not None
    assert flights.join(leader) is None
    flight = flights.join(image(leader.result_key))
    assert flight is not None
    return flight


async def store(publisher: Publisher, leader: Reference, result: Result) -> None:
    subject = subjects.result(leader.model, leader.source, leader.id)
    assert await publisher.publish_once([Message(subject, result.to_json())]) == [True]


async def test_a_twin_joins_the_first_image(flights: Flights, key: str) -> None:
    leader = image(key)
    assert lead(flights, leader).id == leader.id
    assert flights.join(image(f"{key}-other")) is None


async def test_a_redelivered_image_does_not_wait_for_itself(flights: Flights, key: str) -> None:
    leader = image(key)
    assert flights.join(leader) is None
    assert flights.join(leader) is None


async def test_a_result_that_is_stored_already_lands(
    flights: Flights, publisher: Publisher, key: str
) -> None:
    leader = image(key)
    flight = lead(flights, leader)
    result = make_result(leader)
    await store(publisher, leader, result)
    assert await flights.landed(flight) == result


async def test_a_result_that_is_stored_later_lands_for_all_who_wait(
    flights: Flights, publisher: Publisher, connection: Connection, key: str
) -> None:
    leader = image(key)
    flight = lead(flights, leader)
    waiting = [asyncio.ensure_future(flights.landed(flight)) for _ in range(3)]
    for _ in range(3):
        await connection.client.flush()  # whoever waits has looked for a stored result by now
    assert not any(one.done() for one in waiting)
    result = make_result(leader)
    await store(publisher, leader, result)
    assert await asyncio.gather(*waiting) == [result] * 3


async def test_the_result_of_an_earlier_event_of_that_id_does_not_land(
    connection: Connection, publisher: Publisher, key: str
) -> None:
    flights = Flights(connection=connection, patience=IMPATIENCE)
    leader = image(key)
    flight = lead(flights, leader)
    earlier = datetime.now(UTC) - timedelta(hours=1)
    await store(publisher, leader, make_result(leader, time=earlier))
    assert await flights.landed(flight) is None


async def test_a_caller_s_result_lands_by_a_word(flights: Flights, key: str) -> None:
    leader = image(key, reply="_INBOX.caller")
    flight = lead(flights, leader)
    waiting = asyncio.ensure_future(flights.landed(flight))
    await asyncio.sleep(0)
    result = make_result(leader)
    flights.land("_INBOX.caller", result.to_json())
    assert await waiting == result
    assert flights.join(image(key)) is None


async def test_a_caller_that_is_gone_lets_another_lead(flights: Flights, key: str) -> None:
    flight = lead(flights, image(key, reply="_INBOX.gone"))
    flights.land("_INBOX.gone", None)
    assert await flights.landed(flight) is None
    assert flights.join(image(key)) is None


async def test_a_forgotten_flight_is_joined_no_more(flights: Flights, key: str) -> None:
    flight = lead(flights, image(key))
    flights.forget(flight.subject)
    flights.forget(flight.subject)
    successor = image(key)
    assert lead(flights, successor).id == successor.id


async def test_patience_ends_the_wait_and_the_flight(connection: Connection, key: str) -> None:
    flights = Flights(connection=connection, patience=IMPATIENCE)
    assert flights.join(image(key)) is None
    (flight,) = flights._flights.values()
    assert await flights.landed(flight) is None
    assert flights.join(image(key)) is None


async def test_only_so_many_flights_are_remembered(flights: Flights, key: str) -> None:
    leaders = [image(f"{key}-{number}") for number in range(MAX_FLIGHTS + 1)]
    for leader in leaders:
        assert flights.join(leader) is None
    newest = flights.join(image(leaders[-1].result_key or ""))
    assert newest is not None
    assert newest.id == leaders[-1].id
    assert flights.join(image(leaders[0].result_key or "")) is None
