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
from visionmesh.http import HttpServer, Message, Receive, Scope, Send, status_app
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


class Watched:
    """An application, whether it listens for the end of its client, and whether it has answered."""

    def __init__(self, app: Limits) -> None:
        self._app = app
        self.listens = asyncio.Event()
        self.answered = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        whole = False

        async def watched() -> Message:
            nonlocal whole
            if whole:
                self.listens.set()
            message = await receive()
            whole = not message.get("more_body", False)
            return message

        async def answer(message: Message) -> None:
            self.answered = True
            await send(message)

        await self._app(scope, watched, answer)


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
    watched = Watched(limits)
    server = HttpServer(app=watched, host="127.0.0.1", port=0)
    port = await server.start()

    async def changed() -> bool:
        unloads = path.endswith("/unload") or "keep_alive" in body
        return (await context.catalog.registry.get(NAME)).parked is unloads

    async def ended() -> bool:
        return limits.bytes_in_hand == 0

    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
            asking = asyncio.create_task(http.post(path, json=body))
            async with asyncio.timeout(10):
                await watched.listens.wait()
            await until(changed)
            await context.connection.client.flush()  # what was told of that has been heard, too
            assert limits.bytes_in_hand > 0
            assert not watched.answered, "it waits"
            asking.cancel()
            await until(ended)
    finally:
        await server.stop()
