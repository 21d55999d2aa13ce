"""Versions side by side: traffic, rollback, shadows, and versions that cannot be loaded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import nats
import pytest
from nats.aio.client import Client

from tests.mesh.conftest import picture, write_classifier
from tests.networks import save_network, spoil_network
from tests.polling import until
from visionmesh.client import Mesh
from visionmesh.contracts import Result
from visionmesh.local import LocalMesh
from visionmesh.models.folder import load_folder
from visionmesh.models.record import ModelRecord
from visionmesh.models.registry import Registry
from visionmesh.nodes import list_nodes
from visionmesh.subjects import shadow_source

NAME = "versioned"
SIZE = 32


@pytest.fixture
async def nc(local_mesh: LocalMesh) -> AsyncIterator[Client]:
    nc = await nats.connect(local_mesh.nats_url)
    yield nc
    await nc.close()


@pytest.fixture
async def registry(nc: Client) -> AsyncIterator[Registry]:
    registry = Registry(nc)
    yield registry
    await registry.remove(NAME)


def add_version(folder: Path, version: int) -> None:
    """Write a version whose answers are others than those of any other version."""
    file = folder / str(version) / "model.onnx"
    save_network(file, shape=("n", 3, SIZE, SIZE), seed=version)


async def pushed(registry: Registry, nc: Client, root: Path, *versions: int) -> ModelRecord:
    """Push a model with these versions, and wait until they are served."""
    folder = write_classifier(root, name=NAME)
    for version in versions:
        add_version(folder, version)
    record = await registry.push(load_folder(folder))
    await served(nc, *record.shares)
    return record


async def served(nc: Client, *versions: int) -> None:
    async def ready() -> bool:
        nodes = await list_nodes(nc)
        return any(set(versions) <= set(node.models.get(NAME, ())) for node in nodes)

    await until(ready)


async def answered_by(mesh: Mesh, version: int, *, source: str = "default") -> None:
    """Wait until images go to ``version``: ingest hears of it a little later than others."""

    async def probe() -> bool:
        return (await mesh.infer(NAME, picture(), source=source)).version == version

    await until(probe)


async def metrics(nc: Client, stage: str) -> str:
    [url] = [node.http for node in await list_nodes(nc) if node.stage == stage]
    async with httpx.AsyncClient() as client:
        return (await client.get(f"{url}/metrics")).text


async def test_images_are_shared_out_by_weight_and_go_back_by_a_rollback(
    mesh: Mesh, registry: Registry, nc: Client, tmp_path: Path
) -> None:
    await pushed(registry, nc, tmp_path, 1, 2)
    await answered_by(mesh, 2)

    await registry.change(NAME, lambda record: record.steered(weights={1: 1, 2: 1}))
    await served(nc, 1, 2)
    await answered_by(mesh, 1)
    results = await asyncio.gather(*(mesh.infer(NAME, picture()) for _ in range(40)))
    assert {result.version for result in results} == {1, 2}
    assert {result.status for result in results} == {"ok"}
    told = await metrics(nc, "infer")
    for version in (1, 2):
        assert f'visionmesh_engine_seconds_count{{model="{NAME}",version="{version}"}}' in told

    await registry.change(NAME, ModelRecord.rolled_back)
    await answered_by(mesh, 2)
    assert {(await mesh.infer(NAME, picture())).version for _ in range(10)} == {2}


async def test_a_source_stays_with_its_version(
    mesh: Mesh, registry: Registry, nc: Client, tmp_path: Path
) -> None:
    await pushed(registry, nc, tmp_path, 1, 2)
    record = await registry.change(
        NAME, lambda record: record.steered(weights={1: 1, 2: 1}, sticky="source")
    )
    await served(nc, 1, 2)
    sources = {record.choose("", source): source for source in map("cam{}".format, range(20))}
    await answered_by(mesh, 1, source=sources[1])
    for version, source in sources.items():
        results = [await mesh.infer(NAME, picture(), source=source) for _ in range(4)]
        assert [result.version for result in results] == [version] * 4


async def test_a_shadow_answers_beside_and_its_agreement_is_counted(
    mesh: Mesh, http: httpx.AsyncClient, registry: Registry, nc: Client, tmp_path: Path
) -> None:
    await pushed(registry, nc, tmp_path, 1, 2)
    await registry.change(NAME, lambda record: record.steered(weights={2: 1}))
    await registry.change(NAME, lambda record: record.steered(shadow=1))
    await served(nc, 1, 2)
    began = datetime.now(UTC)
    shadows = mesh.results(NAME, source=shadow_source("cam"), since=began)
    image = picture()

    original = await mesh.infer(NAME, image, source="cam")
    shadow = await _next_of(shadows)
    assert (original.version, shadow.version) == (2, 1)
    assert shadow.id == f"{original.id}~v1"
    assert shadow.cache is None

    again = await mesh.infer(NAME, image, source="cam")
    assert again.cache is not None
    assert again.cache.hit, "the shadow is not in the way of the answer in the cache"
    assert again.classes == original.classes
    assert (await _next_of(shadows)).id == f"{again.id}~v1"

    requested = Result.model_validate_json(
        (await http.post(f"/v1/models/{NAME}/infer", content=picture())).content
    )
    assert requested.version == 2
    shadow = await _next_of(mesh.results(NAME, source=shadow_source("http"), since=began))
    assert shadow.id == f"{requested.id}~v1"

    async def counted() -> bool:
        told = await metrics(nc, "ingest")
        labels = f'{{model="{NAME}",outcome="compared",version="1"}}'
        return f"visionmesh_shadow_total{labels} 3.0" in told

    await until(counted)
    told = await metrics(nc, "ingest")
    assert f'visionmesh_agreement_count{{model="{NAME}",version="1"}} 3.0' in told


async def test_a_version_that_cannot_be_loaded_gets_no_image(
    mesh: Mesh, registry: Registry, nc: Client, tmp_path: Path
) -> None:
    await pushed(registry, nc, tmp_path, 1)
    await answered_by(mesh, 1)
    folder = write_classifier(tmp_path, name=NAME)
    add_version(folder, 1)
    file = folder / "2" / "model.onnx"
    add_version(folder, 2)
    spoil_network(file)
    record = await registry.push(load_folder(folder))
    assert record.shares == {2: 1}

    async def failed() -> bool:
        return any(f"{NAME}/2" in node.failed for node in await list_nodes(nc))

    running = [asyncio.ensure_future(mesh.infer(NAME, picture())) for _ in range(20)]
    await until(failed)
    results = [*await asyncio.gather(*running), await mesh.infer(NAME, picture())]
    assert {(result.status, result.version) for result in results} == {("ok", 1)}


async def test_a_version_keeps_its_input_and_labels_when_another_one_comes(
    mesh: Mesh, registry: Registry, nc: Client, tmp_path: Path
) -> None:
    await pushed(registry, nc, tmp_path, 1)
    await answered_by(mesh, 1)
    size, labels = 48, ["elm", "fir", "gum", "hazel"]
    spec = {"input": {"width": size, "height": size}, "labels": labels}
    folder = write_classifier(tmp_path / "larger", name=NAME, **spec)
    save_network(folder / "2" / "model.onnx", shape=("n", 3, size, size), seed=2)
    record = await registry.push(load_folder(folder), version=2)
    await served(nc, 2)

    async def labelled(version: int) -> set[str]:
        await answered_by(mesh, version)
        results = [await mesh.infer(NAME, picture()) for _ in range(3)]
        assert {(result.status, result.version) for result in results} == {("ok", version)}
        return {one.label for result in results for one in result.classes or ()}

    assert await labelled(2) <= set(record.spec_of(2).labels) == set(labels)
    await registry.change(NAME, ModelRecord.rolled_back)
    assert await labelled(1) <= {"ant", "bee", "cat", "dog"}


async def test_a_version_that_cannot_be_decoded_gets_no_image(
    mesh: Mesh, registry: Registry, nc: Client, tmp_path: Path
) -> None:
    await pushed(registry, nc, tmp_path, 1)
    await answered_by(mesh, 1)
    output = {"decoder": "no_such_package:decoder"}
    folder = write_classifier(tmp_path / "other", name=NAME, output=output)
    add_version(folder, 2)
    record = await registry.push(load_folder(folder), version=2)
    assert record.shares == {2: 1}
    await served(nc, 2)

    results = await asyncio.gather(*(mesh.infer(NAME, picture()) for _ in range(10)))
    assert {(result.status, result.version) for result in results} == {("ok", 1)}
    [node] = [node for node in await list_nodes(nc) if node.stage == "postprocess"]
    assert "no_such_package" in node.failed[f"{NAME}/2"]


async def test_a_model_that_sleeps_answers_all_the_same(
    mesh: Mesh, http: httpx.AsyncClient, registry: Registry, nc: Client, tmp_path: Path
) -> None:
    folder = write_classifier(tmp_path, name=NAME, keep_alive="200ms")
    await registry.push(load_folder(folder))
    await served(nc, 1)
    await answered_by(mesh, 1)

    async def asleep() -> bool:
        nodes = [node for node in await list_nodes(nc) if NAME in node.models]
        return bool(nodes) and not any(one.model == NAME for node in nodes for one in node.loaded)

    await until(asleep)
    answer = await http.post(f"/v1/models/{NAME}/infer", content=picture())
    assert answer.status_code == 200
    await until(asleep)
    assert (await mesh.infer(NAME, picture(), timeout=timedelta(seconds=10))).status == "ok"


async def _next_of(results: AsyncIterator[Result]) -> Result:
    async with asyncio.timeout(20):
        return await anext(results)
