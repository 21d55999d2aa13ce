"""Nothing waits on for a client that has hung up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from services.ingest.limits import Limits
from services.ingest.service import Ingest
from tests.networks import save_folder
from tests.polling import until
from visionmesh import subjects
from visionmesh.bus import Connection
from visionmesh.context import Context, open_context
from visionmesh.http import HttpServer, status_app
from visionmesh.models.folder import load_folder
from visionmesh.nodes import Nodes
from visionmesh.settings import MEBIBYTE, IngestSettings, Settings

NAME = "waited-for"


@pytest.fixture
async def context(nats_url: str, connection: Connection, tmp_path: Path) -> AsyncIterator[Context]:
    """That of an ingest worker, in a mesh whose infer worker neither loads nor unloads."""
    settings = Settings(
        nats_url=nats_url, state_dir=tmp_path, shm_dir=tmp_path,
        ingest=IngestSettings(arena_bytes=MEBIBYTE),
    )  # fmt: skip
    stuck = Nodes(nc=connection.client, node="stuck", stage="infer")
    await stuck.start(load=lambda: 0.0)
    await stuck.update(ready=True, models={NAME: (1,)})
    async with AsyncExitStack() as stack:
        stack.push_async_callback(stuck.stop)
        opened = open_context(settings, stage="ingest", stream=subjects.EVENTS)
        context = await stack.enter_async_context(opened)
        stack.push_async_callback(context.nodes.stop)
        await context.nodes.start(load=lambda: 0.0)

        async def serving() -> bool:
            return context.nodes.serving(NAME)

        await until(serving)
        registry = context.catalog.registry
        await registry.push(load_folder(save_folder(tmp_path / NAME)))
        stack.push_async_callback(registry.remove, NAME)
        yield context


@pytest.mark.parametrize(
    ("path", "body", "parked"),
    [
        ("/api/generate", {"model": NAME}, False),
        ("/api/generate", {"model": NAME}, True),
        ("/api/generate", {"model": NAME, "keep_alive": 0}, False),
        ("/api/generate", {"model": NAME, "images": ["QUJD"]}, True),
        (f"/v2/repository/models/{NAME}/load", {"parameters": {}}, True),
        (f"/v2/repository/models/{NAME}/unload", {"parameters": {}}, False),
    ],
)
async def test_a_request_ends_with_its_client(
    context: Context, path: str, body: dict[str, object], parked: bool
) -> None:
    await context.catalog.registry.change(
        NAME, lambda record: record.model_copy(update={"parked": parked})
    )
    limits = Ingest(context).app(status_app(metrics=context.metrics, ready=lambda: None))
    assert isinstance(limits, Limits)
    server = HttpServer(app=limits, host="127.0.0.1", port=0)
    port = await server.start()

    async def in_hand() -> bool:
        return limits.bytes_in_hand > 0

    async def ended() -> bool:
        return limits.bytes_in_hand == 0

    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
            asking = asyncio.create_task(http.post(path, json=body))
            await until(in_hand)
            done, _ = await asyncio.wait((asking,), timeout=0.3)
            assert not done, "it waits"
            asking.cancel()
            await until(ended)
    finally:
        await server.stop()
