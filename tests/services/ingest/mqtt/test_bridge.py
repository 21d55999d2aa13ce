"""The bridge by itself: frames of quality 0, no room, and servers that do not want it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from services.ingest.mqtt import IN_HAND, Bridge
from tests.polling import until
from visionmesh import subjects
from visionmesh.bus import topology
from visionmesh.bus.api import request
from visionmesh.context import Context, open_context
from visionmesh.embedded import NatsServer
from visionmesh.settings import MEBIBYTE, EventsSettings, IngestSettings, Settings
from visionmesh.settings.ingest import MqttSettings

MODEL = "seen"
ROOM = 4
"""Events."""


@asynccontextmanager
async def opened(folder: Path, **mqtt: Any) -> AsyncIterator[Context]:
    """Yield the context of an ingest worker on a server that has one model's events."""
    async with NatsServer(store=folder / "nats") as server:
        settings = Settings(
            nats_url=server.url,
            state_dir=folder,
            shm_dir=folder,
            ingest=IngestSettings(arena_bytes=MEBIBYTE, mqtt=MqttSettings(**mqtt)),
            events=EventsSettings(max_messages=ROOM),
        )
        async with open_context(settings, stage="ingest", stream=subjects.EVENTS) as context:
            declared = topology.events_config(settings.events, [MODEL])
            await topology.ensure_stream(context.connection.client, declared)
            yield context


async def events(context: Context) -> int:
    info = await request(context.connection.client, f"STREAM.INFO.{subjects.EVENTS}")
    return int(info["state"]["messages"])


def lost(context: Context) -> float:
    """Return how many frames were counted that found no room."""
    text = context.metrics.exposition()[0].decode()
    counts = [line for line in text.splitlines() if 'reason="mesh_full"' in line]
    return sum(float(line.split()[-1]) for line in counts if "requests_total" in line)


async def test_frames_of_quality_0_are_taken_while_there_is_room_and_else_counted(
    tmp_path: Path,
) -> None:
    frames = 3 * IN_HAND
    async with opened(tmp_path) as context:
        bridge = Bridge(context=context)
        await bridge.start()
        client = context.connection.client
        for quality in ("0", "1"):
            for number in range(frames):
                body, headers = b"%d" % number, {"Nmqtt-Pub": quality}
                await client.publish(f"vm.mqtt.{MODEL}.s", body, headers=headers)

        async def all_told() -> bool:
            return lost(context) == frames - ROOM

        await until(all_told)
        assert await events(context) == ROOM
        await bridge.stop()


async def test_a_frame_waits_in_the_gateway_s_stream_until_there_is_room(tmp_path: Path) -> None:
    frames = 3 * ROOM
    async with opened(tmp_path) as context:
        bridge = Bridge(context=context)
        await bridge.start()
        client = context.connection.client
        for number in range(frames):
            await client.jetstream().publish(f"$MQTT.msgs.vm.mqtt.{MODEL}.s", b"%d" % number)
        done = 0
        while done < frames:

            async def full() -> bool:
                return await events(context) == min(ROOM, frames - done)  # noqa: B023

            await until(full)
            done += min(ROOM, frames - done)
            await request(client, f"STREAM.PURGE.{subjects.EVENTS}")

        async def empty() -> bool:
            info = await request(client, f"STREAM.INFO.{subjects.MQTT}")
            left: int = info["state"]["messages"]
            return left == 0

        await until(empty)
        await bridge.stop()


async def test_a_server_without_room_for_cameras_serves_events_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path, max_bytes=1 << 45) as context:
        bridge = Bridge(context=context)
        with caplog.at_level(logging.WARNING):
            await bridge.start()
        assert "no frames are taken by MQTT" in caplog.text
        await bridge.stop()
