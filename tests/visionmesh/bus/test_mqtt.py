"""The gateway's stream: bounded, and what it has no room for is not confirmed to the camera."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client as Camera
from paho.mqtt.enums import CallbackAPIVersion

from tests.polling import until
from visionmesh.bus import Connection, Delivery, Puller, acknowledge, api, topology
from visionmesh.embedded import NatsServer
from visionmesh.settings import MEBIBYTE, IngestSettings, Settings
from visionmesh.settings.ingest import MqttSettings

SMALL = Settings(ingest=IngestSettings(mqtt=MqttSettings(max_bytes=MEBIBYTE)))
FRAME = 100_000
COUNT = 30


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with NatsServer(store=tmp_path, mqtt_port=0) as server:
        yield server


@pytest.fixture
async def connection(server: NatsServer) -> AsyncIterator[Connection]:
    connection = await Connection.open(server.url, name="test")
    yield connection
    await connection.close()


@contextmanager
def camera(server: NatsServer) -> Iterator[Camera]:
    client = Camera(CallbackAPIVersion.VERSION2, client_id="camera")
    client.reconnect_delay_set(0.05, 0.1)
    client.connect("127.0.0.1", server.mqtt_port or 0)
    client.loop_start()
    yield client
    client.disconnect()
    client.loop_stop()


async def stream(connection: Connection) -> dict[str, Any]:
    return await api.request(connection.client, "STREAM.INFO.$MQTT_msgs")


async def test_a_camera_that_came_first_does_not_keep_the_stream_without_bounds(
    server: NatsServer, connection: Connection
) -> None:
    with camera(server) as client:

        async def made() -> dict[str, Any] | None:
            try:
                return await stream(connection) if client.is_connected() else None
            except api.ApiError:
                return None

        assert (await until(made))["config"]["max_bytes"] == -1
        await topology.ensure_mqtt(connection.client, SMALL)
    kept = (await stream(connection))["config"]
    assert (kept["max_bytes"], kept["discard"]) == (MEBIBYTE, "new")


async def test_the_server_does_not_warn_of_passwords(tmp_path: Path) -> None:
    said: list[str] = []

    async def ready() -> bool:
        return any("Server is ready" in line for line in said)

    async with NatsServer(store=tmp_path, mqtt_port=0, output=lambda _, line: said.append(line)):
        await until(ready)
    assert not [line for line in said if "password" in line]


async def test_what_is_confirmed_is_stored_and_the_rest_waits_at_the_camera(
    server: NatsServer, connection: Connection
) -> None:
    await topology.ensure_mqtt(connection.client, SMALL)
    with camera(server) as client:
        frames = [os.urandom(FRAME) for _ in range(COUNT)]
        sent = [client.publish("vm/mqtt/m/s", frame, qos=1) for frame in frames]

        async def full() -> bool:
            held: int = (await stream(connection))["state"]["bytes"]
            return held > MEBIBYTE - FRAME - 1000

        await until(full)
        confirmed = sum(message.is_published() for message in sent)
        assert confirmed <= (await stream(connection))["state"]["messages"] < COUNT

        arrived: list[bytes] = []
        tasks: set[asyncio.Task[None]] = set()

        def receive(delivery: Delivery) -> None:
            arrived.append(delivery.body)
            tasks.add(asyncio.create_task(acknowledge(connection, delivery.ack)))
            puller.done()

        puller = Puller(
            connection=connection,
            stream="$MQTT_msgs",
            declare=lambda: topology.ensure_mqtt(connection.client, SMALL),
            capacity=4,
            receive=receive,
        )
        await puller.start()

        async def all_confirmed() -> bool:
            return all(message.is_published() for message in sent)

        await until(all_confirmed, within=30)

        async def drained() -> bool:
            left: int = (await stream(connection))["state"]["messages"]
            return left == 0

        await until(drained)
        await puller.stop()
        await asyncio.gather(*tasks)
    assert set(arrived) == set(frames)
