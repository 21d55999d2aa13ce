"""A load ends, whatever becomes of the mesh."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from tests.polling import until
from visionmesh.bus import Connection, topology
from visionmesh.cli.load import Load
from visionmesh.client import Mesh
from visionmesh.embedded import NatsServer
from visionmesh.settings import EventsSettings


@pytest.mark.parametrize("window", [2, 64], ids=["nothing more fits", "more would fit"])
async def test_a_load_ends_where_the_mesh_went_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr("visionmesh.cli.load._LAST_IMAGES", timedelta(seconds=0.5))
    stop = asyncio.Event()
    async with NatsServer(store=tmp_path) as server:
        connection = await Connection.open(server.url, name="test")
        settings = EventsSettings()
        await topology.ensure_streams(connection.client, settings)
        await topology.ensure_stream(
            connection.client, topology.events_config(settings, ["nobody"])
        )
        await connection.close()
        async with Mesh(server.url) as mesh:
            load = Load(
                mesh=mesh,
                model="nobody",
                source="test",
                picture=lambda: b"an image",
                window=window,
                rate=None if window == 2 else 20,
            )
            running = asyncio.create_task(load.run(stop=stop))

            async def sent() -> bool:
                return load.measured.published >= 2

            await until(sent)
            await server.stop()
            stop.set()
            async with asyncio.timeout(5):
                await running
    assert load.measured.answered == 0
    assert load.measured.published >= 2
