"""Publishing into a mesh that is full."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson

from tests.visionmesh.cli.conftest import COMMAND, environment
from visionmesh import subjects
from visionmesh.bus import Connection, topology
from visionmesh.bus.api import request
from visionmesh.embedded import NatsServer
from visionmesh.settings import EventsSettings

MODEL = "crowded"
ROOM = 2


async def test_publishing_waits_while_the_mesh_is_full_and_goes_on(
    tmp_path: Path, photos: Path
) -> None:
    settings = EventsSettings(max_messages=ROOM)
    async with NatsServer(store=tmp_path / "nats") as server:
        connection = await Connection.open(server.url, name="test")
        await topology.ensure_stream(connection.client, topology.events_config(settings, [MODEL]))
        process = await asyncio.create_subprocess_exec(
            COMMAND,
            *("publish", MODEL, photos, "--json", "--nats", server.url),
            env=environment(tmp_path),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        async with asyncio.timeout(30):
            lines = [await process.stdout.readline() for _ in range(ROOM)]
            third = asyncio.ensure_future(process.stdout.readline())
            # Longer than its pauses: it is refused several times.
            done, _ = await asyncio.wait({third}, timeout=0.5)
            assert not done
            await request(connection.client, f"STREAM.PURGE.{subjects.EVENTS}")
            lines.append(await third)
            assert await process.wait() == 0
        told = await request(connection.client, f"STREAM.INFO.{subjects.EVENTS}")
        assert told["state"]["last_seq"] == len(lines)
        await connection.close()
    assert len({orjson.loads(line)["id"] for line in lines}) == len(lines)
