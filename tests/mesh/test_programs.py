"""Exported programs travel through the mesh beside their networks, and run where models say so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import nats
import psutil
import pytest
import yaml
from nats.aio.client import Client

torch = pytest.importorskip("torch", reason="the engine for exported programs wants PyTorch")

from tests import vits  # noqa: E402 - they import it
from tests.mesh.conftest import SETTINGS, SIZE, picture, write_classifier  # noqa: E402
from tests.polling import until  # noqa: E402
from visionmesh.client import Mesh  # noqa: E402
from visionmesh.contracts import Status  # noqa: E402
from visionmesh.local import LocalMesh  # noqa: E402
from visionmesh.models.folder import load_folder  # noqa: E402
from visionmesh.models.registry import Registry  # noqa: E402
from visionmesh.nodes import list_nodes  # noqa: E402

WITHIN = 120
"""Seconds: workers import PyTorch, and so do ranks."""


class Always(torch.nn.Module):  # type: ignore[misc,name-defined]  # it has no types
    """It sees the same in every image, unlike the network beside it."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place

    def forward(self, image: Any) -> Any:
        scores = image.mean((2, 3))[:, :1] * torch.zeros(1, 4)
        return {"scores": scores + 20 * torch.nn.functional.one_hot(torch.tensor(self.place), 4)}


def write_model(root: Path, name: str, network: Any, *instances: dict[str, Any]) -> Path:
    """Write a model with the small classifier as ``model.onnx``, and ``network`` beside it."""
    changes = {"instances": list(instances), "cache": {"enabled": False}}
    folder = write_classifier(root, name=name, batching={"max_size": 2}, **changes)
    vits.save_program(network, folder / "1" / "model.pt2")
    return folder


@pytest.fixture(scope="module")
async def mesh_of_programs(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalMesh]:
    root = tmp_path_factory.mktemp("programs")
    assert vits.SIZE == SIZE
    network = vits.Vit()
    network.head = torch.nn.Linear(vits.WIDTH, 4)
    models = [
        write_model(root, "host", Always(3), {"engines": ["torch"], "count": 1}),
        write_model(root, "device", Always(2), {"device": "emulated", "engines": ["torch"]}),
        write_model(
            root,
            "split",
            network,
            {"engines": ["torch"], "count": 1, "options": {"tensor_parallel": 2}},
        ),
    ]
    async with LocalMesh(state=root / "state", settings=SETTINGS, models=models) as running:
        yield running


@pytest.fixture
async def nc(mesh_of_programs: LocalMesh) -> AsyncIterator[Client]:
    nc = await nats.connect(mesh_of_programs.nats_url)
    yield nc
    await nc.close()


async def loaded(nc: Client, model: str) -> str:
    """Return the engine of a model, once it is loaded."""

    async def probe() -> str | None:
        nodes = await list_nodes(nc)
        found = [one.engine for node in nodes for one in node.loaded if one.model == model]
        return found[0] if found else None

    return await until(probe, within=WITHIN)


@pytest.mark.parametrize(("model", "label"), [("host", "dog"), ("device", "cat")])
async def test_the_program_answers_and_not_the_network_beside_it(
    mesh_of_programs: LocalMesh, nc: Client, model: str, label: str
) -> None:
    assert await loaded(nc, model) == "torch"
    async with Mesh(mesh_of_programs.nats_url) as mesh:
        results = await asyncio.gather(*(mesh.infer(model, picture()) for _ in range(12)))
    for result in results:
        assert result.status is Status.OK
        assert result.classes
        assert result.classes[0].label == label
        assert result.classes[0].score == pytest.approx(1)


async def test_ranks_answer_and_a_killed_one_is_replaced(
    mesh_of_programs: LocalMesh, nc: Client
) -> None:
    assert await loaded(nc, "split") == "torch"
    image = picture()
    async with Mesh(mesh_of_programs.nats_url) as mesh:
        first = await mesh.infer("split", image)
        assert first.status is Status.OK
        (infer,) = mesh_of_programs.pids["infer"]
        (rank,) = [
            child
            for child in psutil.Process(infer).children()
            if any("spawn_main" in word for word in child.cmdline())
        ]
        rank.kill()
        again = await mesh.infer("split", image, timeout=timedelta(seconds=WITHIN))
    assert again.classes == first.classes
    assert mesh_of_programs.restarts["infer"] == 1


async def test_a_version_without_a_program_says_what_is_missing(
    mesh_of_programs: LocalMesh, nc: Client, tmp_path: Path
) -> None:
    folder = write_classifier(tmp_path, name="without", instances=[{"engines": ["torch"]}])
    registry = Registry(nc)
    await registry.push(load_folder(folder))

    async def failure() -> str | None:
        for node in await list_nodes(nc):
            for key, why in node.failed.items():
                if key.startswith("without"):
                    return why
        return None

    assert "The engine torch runs model.pt2, and the version has none" in await until(failure)

    spec = yaml.safe_load((folder / "model.yaml").read_text())
    spec["instances"] = [{"engines": ["torch", "onnxruntime"], "count": 1}]
    (folder / "model.yaml").write_text(yaml.safe_dump(spec))
    await registry.push(load_folder(folder))
    assert await loaded(nc, "without") == "onnxruntime"
    await registry.remove("without")
