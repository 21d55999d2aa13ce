"""Which models' events an ingest worker takes, and when it takes no more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.ingest.admission import Admission
from services.ingest.intake import Intake
from tests.mesh.conftest import write_classifier
from tests.polling import until
from visionmesh import subjects
from visionmesh.bus import Publisher
from visionmesh.bus.api import ApiError, request
from visionmesh.context import Context, open_context
from visionmesh.models.folder import load_folder
from visionmesh.settings import MEBIBYTE, IngestSettings, Settings

NAME = "taken-in"


@pytest.fixture
async def context(nats_url: str, tmp_path: Path) -> AsyncIterator[Context]:
    settings = Settings(
        nats_url=nats_url, state_dir=tmp_path, shm_dir=tmp_path,
        ingest=IngestSettings(arena_bytes=MEBIBYTE),
    )  # fmt: skip
    async with open_context(settings, stage="ingest", stream=subjects.EVENTS) as context:
        yield context


async def consumer(context: Context) -> dict[str, Any] | None:
    """Return what the server says of the model's consumer, if there is one."""
    subject = f"CONSUMER.INFO.{subjects.EVENTS}.ingest_{NAME}"
    try:
        return await request(context.connection.client, subject)
    except ApiError:
        return None


async def test_a_model_that_is_pushed_while_it_starts_is_pulled_once(
    context: Context, publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog, folder = context.catalog, load_folder(write_classifier(tmp_path, name=NAME))
    replay = catalog.start

    async def replay_and_push() -> None:
        await replay()
        await catalog.registry.push(folder)

    monkeypatch.setattr(catalog, "start", replay_and_push)
    intake = Intake(context=context, admission=Admission(context=context))
    await intake.start()
    await until(lambda: consumer(context))
    await intake.stop()
    await publisher.publish(subjects.event(NAME, "cam"), b"image")
    left = await consumer(context)
    assert left is not None
    assert (left["num_pending"], left["num_ack_pending"]) == (1, 0)
    await catalog.registry.remove(NAME)
    await request(context.connection.client, f"CONSUMER.DELETE.{subjects.EVENTS}.ingest_{NAME}")
    await request(context.connection.client, f"STREAM.PURGE.{subjects.EVENTS}")
