"""A worker that ends lets requests in hand finish."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from services.ingest.service import Ingest
from services.ingest.urls import Urls
from tests.mesh.conftest import CLASSIFIER, write_classifier
from tests.polling import until
from tests.services.ingest.web import LIMIT, ToThisHost, serving
from visionmesh.bus import Connection
from visionmesh.embedded import NatsServer
from visionmesh.models.folder import load_folder
from visionmesh.models.registry import Registry
from visionmesh.nodes import list_nodes
from visionmesh.service import serve
from visionmesh.settings import MEBIBYTE, IngestSettings, Settings
from visionmesh.settings.ingest import UrlSettings
from visionmesh.subjects import EVENTS

HOST = "images.example.org"


@asynccontextmanager
async def served(folder: Path, urls: Urls) -> AsyncIterator[tuple[asyncio.Task[None], str]]:
    """Yield the task of an ingest worker whose mesh has one model, and its URL."""
    async with NatsServer(store=folder / "nats") as server:
        connection = await Connection.open(server.url, name="test")
        await Registry(connection.client).push(load_folder(write_classifier(folder)))
        ingest = IngestSettings(port=0, grpc_port=None, arena_bytes=MEBIBYTE)
        settings = Settings(nats_url=server.url, state_dir=folder, shm_dir=folder, ingest=ingest)
        task = asyncio.create_task(
            serve(
                settings,
                stage="ingest",
                stream=EVENTS,
                build=lambda context: Ingest(context, urls=urls),
            )
        )

        async def url() -> str | None:
            if task.done():
                task.result()
            return next((node.http for node in await list_nodes(connection.client)), None)

        try:
            yield task, await until(url)
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().remove_signal_handler(number)
            await task
            await connection.close()


async def test_an_image_that_is_being_fetched_when_a_worker_ends_is_stored(tmp_path: Path) -> None:
    async with serving() as there, httpx.AsyncClient() as client:
        urls = Urls(
            settings=UrlSettings(hosts=(HOST,)),
            max_bytes=LIMIT,
            resolve=there.resolve,
            transport=ToThisHost(there),
        )
        async with served(tmp_path, urls) as (worker, url):
            model = f"{url}/v1/models/{CLASSIFIER}"

            async def taken() -> bool:
                if worker.done():
                    worker.result()
                try:
                    return (await client.get(model)).status_code == httpx.codes.OK
                except httpx.TransportError:
                    return False

            async def refused() -> bool:
                return not await taken()

            async def fetching() -> bool:
                return bool(there.asked)

            await until(taken)
            asked = {"url": f"https://{HOST}/slow"}
            storing = asyncio.create_task(client.post(f"{model}/events", json=asked))
            await until(fetching)
            signal.raise_signal(signal.SIGTERM)
            await until(refused)
            there.released.set()
            assert (await storing).status_code == httpx.codes.ACCEPTED
