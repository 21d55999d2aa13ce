"""A NATS server with its registry for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client

from visionmesh.embedded import NatsServer
from visionmesh.models.registry import Registry


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with NatsServer(store=tmp_path / "nats") as server:
        yield server


@pytest.fixture
async def nc(server: NatsServer) -> AsyncIterator[Client]:
    nc = await nats.connect(
        server.url, max_reconnect_attempts=-1, reconnect_time_wait=0.05, error_cb=_ignore
    )
    yield nc
    await nc.close()


@pytest.fixture
def registry(nc: Client) -> Registry:
    return Registry(nc)


async def _ignore(error: Exception) -> None:
    """A server that a test stopped is not worth a line."""


async def stored(nc: Client) -> tuple[int, int]:
    """Return messages and bytes of the object store, without those that mark a removal."""
    info = await nc.jetstream().stream_info("OBJ_vm_artifacts", subjects_filter="$O.*.C.>")
    return sum((info.state.subjects or {}).values()), info.state.bytes
