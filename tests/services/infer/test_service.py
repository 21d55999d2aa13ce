"""An infer worker follows the models of the mesh, or ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.infer.service import Infer
from tests.mesh.conftest import write_classifier
from visionmesh.context import open_context
from visionmesh.errors import Fatal, Retry
from visionmesh.models.folder import load_folder
from visionmesh.settings import MEBIBYTE, InferSettings, Settings
from visionmesh.stage import Stage
from visionmesh.subjects import TENSORS

NAME = "cannot-be-followed"


async def test_a_worker_that_cannot_follow_a_model_is_unfit(
    nats_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def listen_lanes(*_: object, name: str) -> None:
        if NAME in name:
            raise Retry("The NATS server did not answer in time.")

    monkeypatch.setattr(Stage, "listen_lanes", listen_lanes)
    settings = Settings(
        nats_url=nats_url, state_dir=tmp_path, infer=InferSettings(arena_bytes=MEBIBYTE)
    )
    async with open_context(settings, stage="infer", stream=TENSORS) as context:
        worker = Infer(context)
        await worker.start()
        await context.catalog.registry.push(load_folder(write_classifier(tmp_path, name=NAME)))
        with pytest.raises(Fatal, match="did not answer in time"):
            await context.failed
        await worker.stop()
        await context.catalog.registry.remove(NAME)
