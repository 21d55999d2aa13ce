"""Publishing into a mesh that is full, and what is seen of it in a terminal."""

from __future__ import annotations

import asyncio
import os
import pty
from contextlib import suppress
from pathlib import Path

import orjson

from tests.visionmesh.cli.conftest import COMMAND, Run, environment
from visionmesh import subjects
from visionmesh.bus import Connection, topology
from visionmesh.bus.api import request
from visionmesh.embedded import NatsServer
from visionmesh.local import LocalMesh
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


async def test_a_terminal_shows_how_many_are_published(running: LocalMesh, photos: Path) -> None:
    terminal, end = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        *("publish", "classifier", photos),
        env=environment(running.settings.state_dir) | {"TERM": "xterm", "COLUMNS": "80"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=end,
    )
    os.close(end)
    reading = asyncio.to_thread(read_to_end, terminal)
    async with asyncio.timeout(30):
        shown, status = await asyncio.gather(reading, process.wait())
    assert status == 0
    assert "publishing" in shown
    assert "3/3" in shown


def read_to_end(terminal: int) -> str:
    """Return what is written to a terminal until its last writer has ended."""
    parts = []
    with suppress(OSError):  # that is how it says that nobody is there any more
        while part := os.read(terminal, 4096):
            parts.append(part)
    os.close(terminal)
    return b"".join(parts).decode()


async def test_where_there_is_no_terminal_no_bar_is_drawn(visionmesh: Run, photos: Path) -> None:
    published = await visionmesh("publish", "classifier", photos)
    assert published.err == ""
    assert published.out == "3 of 3 images are published.\n"
