"""Real servers for all tests, started once and stopped at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.servers import NatsServer
from visionmesh.embedded import ValkeyServer


@pytest.fixture(scope="session")
async def nats_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The URL of a NATS server with JetStream that all tests share."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    await server.start()
    yield server.url
    await server.stop()


@pytest.fixture(scope="session")
async def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The URL of a Valkey server that all tests share."""
    async with ValkeyServer(directory=tmp_path_factory.mktemp("valkey")) as server:
        yield server.url
