"""The layer on JetStream against a real server, which is also killed under it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Self

import pytest

from tests.polling import until
from visionmesh import subjects
from visionmesh.bus import (
    Connection,
    Delivery,
    Message,
    Publisher,
    Puller,
    acknowledge,
    origin,
    return_later,
    topology,
)
from visionmesh.bus.api import stored_message
from visionmesh.embedded import NatsServer
from visionmesh.errors import Code, ConfigurationError, Refused
from visionmesh.settings import EventsSettings

SETTINGS = EventsSettings()
MODEL = "bus-test"


class Bus:
    """A server of its own, so that it may be killed, with the mesh's streams."""

    def __init__(self, server: NatsServer, connection: Connection, publisher: Publisher) -> None:
        self.server = server
        self.connection = connection
        self.publisher = publisher
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        await self.connection.close()
        await self.server.stop()

    async def pull(self, *, capacity: int = 8) -> asyncio.Queue[Delivery]:
        config = topology.events_consumer(MODEL, window=64, settings=SETTINGS)
        queue: asyncio.Queue[Delivery] = asyncio.Queue()
        self.puller = Puller(
            connection=self.connection,
            stream=subjects.EVENTS,
            declare=lambda: topology.ensure_consumer(
                self.connection.client, subjects.EVENTS, config
            ),
            capacity=capacity,
            receive=queue.put_nowait,
        )
        await self.puller.start()
        self._stack.push_async_callback(self.puller.stop)
        return queue


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[Bus]:
    server = NatsServer(store=tmp_path / "nats")
    await server.start()
    connection = await Connection.open(server.url, name="test")
    await topology.ensure_streams(connection.client, SETTINGS)
    await topology.ensure_stream(connection.client, topology.events_config(SETTINGS, [MODEL]))
    publisher = Publisher(connection=connection)
    await publisher.start()
    async with Bus(server, connection, publisher) as bus:
        yield bus


def event(number: int) -> str:
    return subjects.event(MODEL, f"source-{number}")


async def test_declares_streams_again_without_a_change(bus: Bus) -> None:
    await topology.ensure_streams(bus.connection.client, SETTINGS)


async def test_follows_a_changed_declaration(bus: Bus) -> None:
    wider = topology.events_config(SETTINGS, [MODEL, "another"])
    await topology.ensure_stream(bus.connection.client, wider)
    await bus.publisher.publish("vm.events.another.x", b"1")


async def test_refuses_a_stream_that_cannot_become_as_declared(bus: Bus) -> None:
    config = {**topology.events_config(SETTINGS, [MODEL]), "storage": "memory"}
    with pytest.raises(ConfigurationError) as caught:
        await topology.ensure_stream(bus.connection.client, config)
    assert caught.value.code is Code.MESH_INCOMPATIBLE


async def test_refuses_an_event_for_an_unknown_model(bus: Bus) -> None:
    with pytest.raises(Refused) as caught:
        await bus.publisher.publish("vm.events.nobody.x", b"image")
    assert caught.value.code is Code.UNKNOWN_MODEL


async def test_refuses_when_the_stream_is_full(bus: Bus) -> None:
    small = topology.events_config(EventsSettings(max_messages=2), [MODEL])
    await topology.ensure_stream(bus.connection.client, small)
    for number in range(2):
        await bus.publisher.publish(event(number), b"image")
    with pytest.raises(Refused) as caught:
        await bus.publisher.publish(event(2), b"image")
    assert caught.value.code is Code.MESH_FULL


async def test_refuses_a_message_that_is_too_large(bus: Bus) -> None:
    with pytest.raises(Refused) as caught:
        await bus.publisher.publish(event(0), bytes(bus.connection.max_payload + 1))
    assert caught.value.code is Code.PAYLOAD_TOO_LARGE


async def test_stores_one_result_for_each_subject(bus: Bus) -> None:
    subject = subjects.result(MODEL, "s", "event-1")
    first, second = Message(subject, b"first"), Message(subject, b"second")
    other = Message(subjects.result(MODEL, "s", "event-2"), b"other")
    assert await bus.publisher.publish_once([first]) == [True]
    assert await bus.publisher.publish_once([second, other]) == [False, True]
    stored = await stored_message(bus.connection.client, subjects.RESULTS, last_by_subj=subject)
    assert stored is not None
    assert stored.data == b"first"


async def test_tells_what_waits_behind_the_last_delivery(bus: Bus) -> None:
    for number in range(3):
        await bus.publisher.publish(event(number), b"image")
    queue = await bus.pull(capacity=1)
    await queue.get()
    assert bus.puller.waiting() == 2
    await bus.connection.client.jetstream().purge_stream(subjects.EVENTS)
    bus.puller.done()

    async def empty() -> bool:
        return bus.puller.waiting() == 0

    await until(empty)


async def test_delivers_no_more_than_its_capacity_until_done(bus: Bus) -> None:
    queue = await bus.pull(capacity=4)
    for number in range(12):
        await bus.publisher.publish(event(number), b"%d" % number)
    first = [await asyncio.wait_for(queue.get(), 5) for _ in range(4)]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.get(), 0.3)
    for delivery in first:
        await acknowledge(bus.connection, delivery.ack)
        bus.puller.done()
    rest = [await asyncio.wait_for(queue.get(), 5)]
    bodies = {delivery.body for delivery in (*first, *rest)}
    assert len(bodies) == 5


async def test_delivers_a_returned_message_again(bus: Bus) -> None:
    queue = await bus.pull()
    await bus.publisher.publish(event(0), b"image")
    delivery = await asyncio.wait_for(queue.get(), 5)
    assert origin(delivery.ack).attempt == 1
    await return_later(bus.connection, delivery.ack, timedelta(milliseconds=10))
    again = await asyncio.wait_for(queue.get(), 5)
    assert (again.body, origin(again.ack).attempt) == (b"image", 2)


async def test_loses_nothing_when_the_server_is_killed(bus: Bus) -> None:
    queue = await bus.pull(capacity=64)
    seen: set[bytes] = set()
    wanted = 200

    async def consume() -> None:
        while len(seen) < wanted:
            delivery = await queue.get()
            seen.add(delivery.body)
            await acknowledge(bus.connection, delivery.ack)
            bus.puller.done()

    async def produce() -> None:
        for number in range(wanted):
            await bus.publisher.publish(event(number), b"%d" % number)
            if number == wanted // 2:
                os.kill(bus.server.pid or 0, signal.SIGKILL)
                await bus.server.wait()
                await bus.server.start()

    async with asyncio.timeout(30):
        await asyncio.gather(consume(), produce())
    assert seen == {b"%d" % number for number in range(wanted)}


async def test_says_where_no_server_answers_and_tells_of_its_tries_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(Refused) as caught:
        await Connection.open("nats://127.0.0.1:9", name="test", within=timedelta(seconds=1))
    assert caught.value.code is Code.MESH_UNREACHABLE
    assert "127.0.0.1:9" in caught.value.message
    [told] = caplog.messages
    assert told.endswith("; trying again")


@pytest.mark.parametrize("url", ["", "nats://", "nats://a:b", "http://127.0.0.1:9", "nats://[1"])
async def test_what_is_no_url_of_a_server_is_told_so(url: str) -> None:
    with pytest.raises(ConfigurationError, match="no URL of a NATS server") as caught:
        await Connection.open(url, name="test")
    assert caught.value.code is Code.SETTINGS_INVALID


async def test_every_outage_is_told_once(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    async def tells() -> bool:
        return any("trying again" in text for text in caplog.messages)

    for _ in range(2):
        caplog.clear()
        back = asyncio.Event()
        undo = bus.connection.on_return(back.set)
        os.kill(bus.server.pid or 0, signal.SIGKILL)
        await bus.server.wait()
        await until(tells)
        # Time for more tries: they come every quarter of a second.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(back.wait(), 1)
        await bus.server.start()
        await asyncio.wait_for(back.wait(), 10)
        undo()
        assert len([text for text in caplog.messages if "trying again" in text]) == 1


async def test_headers_count_as_the_server_counts_them(bus: Bus) -> None:
    subject, limit = subjects.result(MODEL, "s", "brim"), bus.connection.max_payload
    headers = {"Vm-Id": "x" * 40}
    room = limit - Message(subject, b"", headers).size
    with pytest.raises(Refused) as caught:
        await bus.publisher.publish(subject, bytes(room + 1), headers=headers)
    assert caught.value.code is Code.PAYLOAD_TOO_LARGE
    await bus.publisher.publish(subject, bytes(room), headers=headers)


async def test_a_connection_that_the_server_ends_for_good_is_told(bus: Bus) -> None:
    ended = asyncio.Event()
    bus.connection.on_end(ended.set)
    # The client does not count headers; the server ends the connection for them.
    body = bytes(bus.connection.max_payload)
    await bus.connection.client.publish("anything", body, headers={"one": "more"})
    await asyncio.wait_for(ended.wait(), 10)
    with pytest.raises(Refused) as caught:
        await bus.publisher.publish(subjects.result(MODEL, "s", "late"), b"")
    assert caught.value.code is Code.MESH_UNREACHABLE
