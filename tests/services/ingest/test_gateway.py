"""What becomes of a synchronous request whose image comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from nats.aio.msg import Msg

from services.ingest.admission import Admission
from services.ingest.callers import Callers
from services.ingest.gateway import MAX_TRIES, Gateway
from tests.networks import save_folder
from tests.polling import until
from visionmesh import subjects
from visionmesh.bundle import decode
from visionmesh.bus import Connection
from visionmesh.context import Context, open_context
from visionmesh.errors import Code, Refused, Reject, Retry
from visionmesh.events import Event
from visionmesh.models.folder import load_folder
from visionmesh.nodes import Nodes
from visionmesh.settings import MEBIBYTE, IngestSettings, Settings

NAME = "sent-again"


@pytest.fixture
async def context(nats_url: str, connection: Connection, tmp_path: Path) -> AsyncIterator[Context]:
    """That of an ingest worker, in a mesh whose other workers are known but take nothing."""
    settings = Settings(
        nats_url=nats_url, state_dir=tmp_path, shm_dir=tmp_path,
        ingest=IngestSettings(arena_bytes=MEBIBYTE),
    )  # fmt: skip
    async with AsyncExitStack() as stack:
        for stage in ("preprocess", "infer", "postprocess"):
            worker = Nodes(nc=connection.client, node="idle", stage=stage)
            await worker.start(load=lambda: 0.0)
            stack.push_async_callback(worker.stop)
            await worker.update(ready=True, models={NAME: (1,)} if stage == "infer" else {})
        opened = open_context(settings, stage="ingest", stream=subjects.EVENTS)
        context = await stack.enter_async_context(opened)
        registry = context.catalog.registry
        await registry.push(load_folder(save_folder(tmp_path / NAME)))
        stack.push_async_callback(registry.remove, NAME)
        await context.catalog.start()
        stack.push_async_callback(context.catalog.stop)
        await context.nodes.start(load=lambda: 0.0)
        stack.push_async_callback(context.nodes.stop)

        async def staffed() -> bool:
            return context.nodes.staffed(NAME)

        await until(staffed)
        yield context


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (Retry("Not known here yet.", code=Code.MODEL_NOT_READY), Refused),
        (Retry("The arena is full.", code=Code.MESH_FULL), Refused),
        (Retry("The slot was reused."), Reject),
    ],
    ids=lambda value: value.code if isinstance(value, Retry) else "",
)
async def test_the_last_reason_is_told_when_an_image_has_come_back_too_often(
    context: Context, error: Retry, raised: type[Refused | Reject]
) -> None:
    sent = []

    async def send_back(message: Msg) -> None:
        for reference in decode(message.data)[0]:
            sent.append(reference.attempt)
            await context.settlement.again(reference, error)

    await context.connection.client.subscribe(subjects.image(NAME, "*"), cb=send_back)
    callers = Callers(connection=context.connection, reader=context.reader)
    await callers.start()
    gateway = Gateway(context=context, admission=Admission(context=context), callers=callers)
    event = Event(id="came-back", source="test", model=NAME, image=b"an image")
    with pytest.raises(raised) as told:
        await gateway.infer(event)
    assert sent == [*range(1, MAX_TRIES + 1)]
    assert error.message in told.value.message
    expected = error.code if raised is Refused else Code.TOO_MANY_ATTEMPTS
    assert told.value.code is expected
