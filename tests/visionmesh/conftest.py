"""Workers that know of each other; clocks run faster than in a mesh."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest
from nats.js.errors import NotFoundError

from tests.polling import until
from visionmesh.bus import Connection
from visionmesh.nodes import Nodes
from visionmesh.subjects import NODES_BUCKET

Join = Callable[..., Awaitable[Nodes]]


async def remove_bucket(connection: Connection) -> None:
    """Whoever comes first decides how long records live."""
    try:
        await connection.client.jetstream().delete_key_value(NODES_BUCKET)
    except NotFoundError:
        return


@pytest.fixture
async def join(
    nats_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Join]:
    """Start workers, each with a connection of its own."""
    monkeypatch.setattr("visionmesh.nodes.PERIOD", timedelta(milliseconds=100))
    monkeypatch.setattr("visionmesh.nodes.ALIVE", timedelta(seconds=1))
    await remove_bucket(connection)
    async with AsyncExitStack() as stack:

        async def start(node: str, stage: str, **fields: object) -> Nodes:
            own = await Connection.open(nats_url, name=f"{stage}@{node}")
            stack.push_async_callback(own.close)
            worker = Nodes(nc=own.client, node=node, stage=stage)
            stack.push_async_callback(worker.stop)
            await worker.start(load=lambda: 3.0)
            await worker.update(**fields)
            return worker

        yield start
    await remove_bucket(connection)


async def sees(probe: Callable[[], object]) -> None:
    async def probed() -> bool:
        return bool(probe())

    await until(probed)
