"""One mesh of real processes for the tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from io import BytesIO
from itertools import count
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml
from PIL import Image

from tests.containers import nats_container, valkey_container, wants_containers
from tests.gpu_device import DEVICE
from tests.networks import save_network
from visionmesh.bus import Connection
from visionmesh.cli.readiness import Pushed, served
from visionmesh.client import Mesh
from visionmesh.local import LocalMesh
from visionmesh.models.folder import load_folder
from visionmesh.models.registry import Registry
from visionmesh.settings import EventsSettings, IngestSettings, PreprocessSettings, Settings

CLASSIFIER = "classifier"
SIZE = 32
SETTINGS = Settings(
    # Short, so that the tests of failures do not wait for long.
    events=EventsSettings(ack_wait=timedelta(seconds=3), hop_ack_wait=timedelta(seconds=1)),
    ingest=IngestSettings(port=0, grpc_port=0, max_image_bytes=8 << 20),
    preprocess=PreprocessSettings(max_pixels=30_000_000),
)
ON_DEVICE = SETTINGS.model_copy(
    update={
        stage: getattr(SETTINGS, stage).model_copy(update={"device": DEVICE})
        for stage in ("preprocess", "postprocess")
    }
)
"""The same, with both stages on the device that tests of GPUs use."""


def write_classifier(root: Path, *, name: str = CLASSIFIER, **changes: object) -> Path:
    """Write the folder of a small real classifier and return it."""
    folder = root / name
    save_network(folder / "1" / "model.onnx", shape=("n", 3, SIZE, SIZE))
    spec: dict[str, object] = {
        "task": "classification",
        "input": {"width": SIZE, "height": SIZE, "resize": "stretch", "scale": 1 / 255},
        "output": {"decoder": "softmax", "top_k": 2},
        "labels": ["ant", "bee", "cat", "dog"],
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(spec | changes))
    return folder


_numbers = count()


def picture(width: int = 64, height: int = 48, *, kind: str = "JPEG") -> bytes:
    """Return an encoded image that no other call returns."""
    random = np.random.default_rng(next(_numbers))
    pixels = random.integers(0, 255, (height, width, 3), np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="session")
async def local_mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalMesh]:
    """The four services with the small classifier; their servers are embedded, or containers."""
    root = tmp_path_factory.mktemp("mesh")
    models = [
        write_classifier(root / "models"),
        write_classifier(root / "models", name="uncached", cache={"enabled": False}),
    ]
    async with AsyncExitStack() as servers:
        nats = redis = None
        if wants_containers():
            nats = await servers.enter_async_context(nats_container())
            redis = await servers.enter_async_context(valkey_container())
        yield await servers.enter_async_context(
            LocalMesh(
                state=root / "state",
                settings=SETTINGS,
                models=models,
                nats_url=nats,
                redis_url=redis,
            )
        )


@asynccontextmanager
async def open_on_device(root: Path) -> AsyncIterator[LocalMesh]:
    """Open a mesh of which three stages share the device's memory, with a classifier there."""
    model = write_classifier(root, instances=[{"device": DEVICE}], cache={"enabled": False})
    async with LocalMesh(state=root / "state", settings=ON_DEVICE, models=[model]) as running:
        yield running


@pytest.fixture(scope="session")
async def device_mesh(
    gpu_device: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[LocalMesh]:
    """One for all tests that leave it as it is."""
    async with open_on_device(tmp_path_factory.mktemp("device")) as running:
        yield running


@asynccontextmanager
async def serving(running: LocalMesh, folders: Sequence[Path]) -> AsyncIterator[Mesh]:
    """Let a mesh serve these models, too, for as long as the client is used."""
    connection = await Connection.open(running.nats_url, name="pusher")
    registry = Registry(connection.client)
    async with served(running.nats_url, None, within=timedelta(seconds=60)) as pushed:
        for folder in folders:
            pushed.append(Pushed(await registry.push(load_folder(folder)), changed=True))
    async with Mesh(running.nats_url) as client:
        yield client
    for folder in folders:
        await registry.remove(folder.name)
    await connection.close()


@pytest.fixture
async def mesh(local_mesh: LocalMesh) -> AsyncIterator[Mesh]:
    """A client of the mesh."""
    async with Mesh(local_mesh.nats_url) as client:
        yield client


@pytest.fixture
async def http(local_mesh: LocalMesh) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the mesh's HTTP interface."""
    async with httpx.AsyncClient(base_url=local_mesh.http_url, timeout=30) as client:
        yield client
