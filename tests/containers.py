"""The servers of the tests as containers, where a Docker engine answers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml
from docker.errors import DockerException
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

ROOT = Path(__file__).parents[1]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
VARIABLE = "VISIONMESH_TEST_CONTAINERS"


def wants_containers() -> bool:
    """Say whether the tests' servers are to be containers."""
    return os.environ.get(VARIABLE) == "1"


@asynccontextmanager
async def nats_container() -> AsyncIterator[str]:
    """Run NATS as docker-compose.yml does; yield its URL."""
    container = _container("nats", port=4222, ready="Server is ready")
    container.with_copy_into_container(ROOT / "deploy" / "nats.conf", "/etc/nats/nats.conf")
    async with _running(container):
        yield f"nats://{container.get_container_host_ip()}:{container.get_exposed_port(4222)}"


@asynccontextmanager
async def valkey_container() -> AsyncIterator[str]:
    """Run Valkey as docker-compose.yml does; yield its URL."""
    container = _container("redis", port=6379, ready="Ready to accept connections")
    async with _running(container):
        yield f"redis://{container.get_container_host_ip()}:{container.get_exposed_port(6379)}"


def _container(service: str, *, port: int, ready: str) -> DockerContainer:
    """Return the image and the command of ``service``; fail if no Docker engine answers."""
    declared = COMPOSE[service]
    try:
        container = DockerContainer(declared["image"])
    except DockerException as error:
        pytest.fail(f"{VARIABLE}=1, but no Docker engine answers: {error}", pytrace=False)
    container.with_command(declared["command"]).with_exposed_ports(port)
    return container.waiting_for(LogMessageWaitStrategy(ready))


@asynccontextmanager
async def _running(container: DockerContainer) -> AsyncIterator[None]:
    await asyncio.to_thread(container.start)
    try:
        yield
    finally:
        await asyncio.to_thread(container.stop)
