"""Models that a GPU does not hold at once take turns, and every image is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.gpu_device import DEVICE
from tests.mesh.conftest import SETTINGS, picture, write_classifier
from tests.mesh.measured import measured
from visionmesh.client import Mesh
from visionmesh.contracts import Status
from visionmesh.local import LocalMesh
from visionmesh.settings import InferSettings

MODELS = ("alder", "birch", "cedar")
GIB = 1 << 30
pytestmark = pytest.mark.usefixtures("gpu_device")


@pytest.fixture(scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """A mesh with room for two of its three models."""
    root = tmp_path_factory.mktemp("room")
    instance = {"device": DEVICE, "memory": "2GiB"}
    models = [write_classifier(root, name=name, instances=[instance]) for name in MODELS]
    infer = InferSettings(device_memory_bytes=5 * GIB)
    settings = SETTINGS.model_copy(update={"infer": infer})
    async with (
        LocalMesh(state=root / "state", settings=settings, models=models) as running,
        Mesh(running.nats_url) as client,
    ):
        yield client


async def test_two_are_loaded_and_the_third_sleeps(mesh: Mesh) -> None:
    [infer] = [node for node in await mesh.nodes() if node.stage == "infer"]
    assert infer.models.keys() == set(MODELS)
    assert len(infer.loaded) == 2
    [(version, why)] = infer.asleep.items()
    assert version.removesuffix("/1") in MODELS
    assert why.startswith("it gave way to version 1 of ")
    for loaded in infer.loaded:
        assert len(loaded.device_memory) == 1


async def test_each_image_wakes_its_model(mesh: Mesh) -> None:
    for name in MODELS * 2:
        assert (await mesh.infer(name, picture())).status is Status.OK
    evictions = await measured(mesh, "infer", "visionmesh_evictions_total")
    assert sum(evictions.values()) >= len(MODELS)


async def test_images_of_all_models_at_once_are_answered(mesh: Mesh) -> None:
    results = await asyncio.gather(
        *(mesh.infer(name, picture()) for _ in range(8) for name in MODELS)
    )
    assert {result.status for result in results} == {Status.OK}
