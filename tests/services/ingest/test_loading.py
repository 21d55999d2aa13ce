"""Who waits for a model hears of it as it is now, whoever else changes it."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.ingest.models import Models
from services.ingest.service import Ingest
from tests.networks import save_folder
from tests.polling import until
from visionmesh import subjects
from visionmesh.bus import Connection
from visionmesh.context import Context, open_context
from visionmesh.errors import Code, Refused
from visionmesh.http import Message, status_app
from visionmesh.models.folder import load_folder
from visionmesh.models.record import ModelRecord
from visionmesh.nodes import Nodes
from visionmesh.settings import MEBIBYTE, IngestSettings, Settings

NAME = "awaited"


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """An ingest worker's view of a mesh whose infer worker says what a test tells it to."""

    context: Context
    infer: Nodes
    record: ModelRecord
    """Of two versions; the second gets the images."""

    def wait(self, *, wholly: bool = False) -> asyncio.Task[None]:
        waiting = Models(context=self.context).wait_until_loaded(self.record, wholly=wholly)
        return asyncio.create_task(waiting)

    async def change(self, **changes: object) -> ModelRecord:
        """Change the model while somebody waits for it; return what is stored."""
        registry = self.context.catalog.registry
        record = await registry.change(NAME, lambda old: old.model_copy(update=changes))
        await self.until(lambda: self.context.catalog.revision >= record.revision)
        return record

    async def apply(self, record: ModelRecord, *ready: int, **failed: str) -> None:
        why = {f"{NAME}/{version.removeprefix('v')}": text for version, text in failed.items()}
        models = {NAME: ready} if ready else {}
        applied = {NAME: record.revision}
        await self.infer.update(ready=True, models=models, failed=why, applied=applied)

    async def until(self, probe: Callable[[], object]) -> None:
        async def probed() -> bool:
            return bool(probe())

        await until(probed)


@pytest.fixture
async def mesh(nats_url: str, connection: Connection, tmp_path: Path) -> AsyncIterator[Mesh]:
    settings = Settings(
        nats_url=nats_url, state_dir=tmp_path, shm_dir=tmp_path,
        ingest=IngestSettings(arena_bytes=MEBIBYTE),
    )  # fmt: skip
    infer = Nodes(nc=connection.client, node="told", stage="infer")
    async with AsyncExitStack() as stack:
        await infer.start(load=lambda: 0.0)
        stack.push_async_callback(infer.stop)
        opened = open_context(settings, stage="ingest", stream=subjects.EVENTS)
        context = await stack.enter_async_context(opened)
        await context.nodes.start(load=lambda: 0.0)
        stack.push_async_callback(context.nodes.stop)
        await context.catalog.start()
        stack.push_async_callback(context.catalog.stop)
        folder = save_folder(tmp_path / NAME, versions=(1, 2))
        record = await context.catalog.registry.push(load_folder(folder))
        yield Mesh(context=context, infer=infer, record=record)
        if await registered(context):
            await context.catalog.registry.remove(NAME)


async def registered(context: Context) -> bool:
    return NAME in {record.spec.name for record in await context.catalog.registry.list()}


async def refusal(waiting: Awaitable[None]) -> Refused:
    with pytest.raises(Refused) as refused:
        await asyncio.wait_for(waiting, 10)
    return refused.value


async def test_a_model_that_is_changed_while_it_is_loaded_counts_as_it_is_now(mesh: Mesh) -> None:
    waiting = mesh.wait()
    newer = await mesh.change(card="A tree.")
    await mesh.apply(newer, 2)
    await asyncio.wait_for(waiting, 10)


async def test_a_model_that_is_removed_while_it_is_loaded_is_unknown(mesh: Mesh) -> None:
    waiting = mesh.wait()
    await mesh.context.catalog.registry.remove(NAME)
    assert (await refusal(waiting)).code is Code.UNKNOWN_MODEL


async def test_a_model_that_is_unloaded_while_it_is_loaded_is_told_to_be(mesh: Mesh) -> None:
    waiting = mesh.wait()
    await mesh.apply(await mesh.change(parked=True))
    refused = await refusal(waiting)
    assert refused.code is Code.MODEL_NOT_READY
    assert "it was unloaded meanwhile" in refused.message


async def test_versions_in_reserve_do_for_who_asks_for_no_more(mesh: Mesh) -> None:
    await mesh.apply(mesh.record, 1, v2="no such operator")
    await asyncio.wait_for(mesh.wait(), 10)
    refused = await refusal(mesh.wait(wholly=True))
    assert refused.code is Code.MODEL_NOT_READY
    assert "no such operator" in refused.message


async def test_files_that_have_come_are_stored_for_a_client_that_hung_up(
    mesh: Mesh, tmp_path: Path
) -> None:
    await mesh.context.catalog.registry.remove(NAME)
    files = {
        f"file:{path}": base64.b64encode((tmp_path / NAME / path).read_bytes()).decode()
        for path in ("model.yaml", "1/model.onnx", "2/model.onnx")
    }
    body = json.dumps({"parameters": files}).encode()
    answered: list[Message] = []
    told: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return told.pop() if told else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        answered.append(message)

    path = f"/v2/repository/models/{NAME}/load"
    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "path": path,
        "raw_path": path.encode(), "root_path": "", "query_string": b"", "headers": [],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "state": {},
    }  # fmt: skip
    status = status_app(metrics=mesh.context.metrics, ready=lambda: None)
    await Ingest(mesh.context).app(status)(scope, receive, send)
    assert b"ended before the answer" in answered[-1]["body"]
    assert await registered(mesh.context)
