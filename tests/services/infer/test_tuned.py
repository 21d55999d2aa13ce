from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import numpy as np
import pytest

from services.infer.loaded import LoadedModel
from services.infer.loading import Loader
from services.infer.pool import ModelPool
from tests.networks import expected, save_folder, save_network
from visionmesh.cpu import cpu_features, multiplies_bytes
from visionmesh.models.artifacts import file_sha256
from visionmesh.models.folder import load_folder
from visionmesh.models.record import ModelRecord
from visionmesh.models.registry import Registry
from visionmesh.models.variants import (
    Artifact,
    Choice,
    Precision,
    Variants,
    read_variants,
    write_variants,
)
from visionmesh.workbench import cores

pytestmark = pytest.mark.skipif(not cpu_features(), reason="this system does not tell its CPU")
needs_bytes = pytest.mark.skipif(
    not multiplies_bytes(cpu_features()), reason="INT8 runs by itself only on a CPU made for it"
)


@pytest.fixture
async def registry(nats_url: str) -> AsyncIterator[Registry]:
    nc = await nats.connect(nats_url)
    registry = Registry(nc)
    yield registry
    await registry.remove("trees")
    await nc.close()


@pytest.fixture
async def pool(registry: Registry, tmp_path: Path) -> AsyncIterator[ModelPool]:
    pool = ModelPool(loader=Loader(registry=registry, directory=tmp_path / "cache"))
    yield pool
    await pool.close()


def tuned_folder(root: Path, *, seed: int = 1, **chosen: Any) -> Path:
    """Write a model with an INT8 network that has the weights of ``seed``, and choose that."""
    folder = save_folder(root / "trees")
    network = folder / "1" / "model.onnx"
    file = save_network(folder / "1" / "int8.onnx", seed=seed)
    artifact = Artifact(
        file=file.name,
        precision=Precision.INT8,
        scheme="u8s8",
        sha256=file_sha256(file),
        size_bytes=file.stat().st_size,
    )
    choice = Choice.model_validate(
        {
            "engine": "openvino",
            "precision": "int8",
            "file": file.name,
            "threads": 1,
            "count": 3,
            "cores": cores(),
            "cpu": cpu_features(),
            "images_per_s": 2,
            "baseline_per_s": 1,
            **chosen,
        }
    )
    variants = Variants(of=file_sha256(network), artifacts=(artifact,), choice=choice)
    write_variants(network.parent, variants)
    return folder


def untuned_folder(root: Path, *, seed: int = 1, content: bytes | None = None) -> Path:
    """Write the same without a choice; ``content`` replaces that of the INT8 file."""
    folder = tuned_folder(root, seed=seed)
    file = folder / "1" / "int8.onnx"
    if content is not None:
        file.write_bytes(content)
    variants = read_variants(file.parent)
    assert variants is not None
    judged = {"faster": 2.0, "right": True, "sha256": file_sha256(file)}
    faster = variants.artifacts[0].model_copy(update=judged)
    write_variants(file.parent, Variants(of=variants.of, artifacts=(faster,)))
    return folder


async def loaded(pool: ModelPool, record: ModelRecord) -> LoadedModel:
    await pool.apply("trees", record)
    (model,) = pool.loaded
    return model


async def answers_like(pool: ModelPool, seed: int) -> bool:
    image = np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8)
    output = await pool.infer("trees", 1, image)
    right = expected(image.transpose(2, 0, 1)[None].astype(np.float32), seed)[0]
    return np.allclose(output.outputs["scores"], right, rtol=1e-4, atol=1e-3)


async def test_a_worker_follows_what_was_measured_on_such_a_cpu(
    registry: Registry, pool: ModelPool, tmp_path: Path
) -> None:
    folder = load_folder(tuned_folder(tmp_path, seed=2))
    model = await loaded(pool, await registry.push(folder))
    assert (model.way.engine, model.way.precision, model.engines) == ("openvino", "int8", 3)
    assert await answers_like(pool, 2), "the chosen file runs"


@needs_bytes
async def test_what_was_made_smaller_and_faster_runs_without_tuning(
    registry: Registry, pool: ModelPool, tmp_path: Path
) -> None:
    folder = untuned_folder(tmp_path, seed=2)
    model = await loaded(pool, await registry.push(load_folder(folder)))
    assert (model.way.engine, model.way.precision) == ("onnxruntime", "int8")
    assert await answers_like(pool, 2), "the INT8 file runs"


@needs_bytes
async def test_a_smaller_network_that_does_not_load_gives_way_to_what_it_was_made_of(
    registry: Registry, pool: ModelPool, tmp_path: Path
) -> None:
    folder = untuned_folder(tmp_path, content=b"no network")
    model = await loaded(pool, await registry.push(load_folder(folder)))
    assert (model.way.precision, model.way.plain) == ("fp32", True)
    assert "does not work here" in model.way.why
    assert await answers_like(pool, 1)


async def test_another_choice_for_the_same_network_exchanges_the_engines(
    registry: Registry, pool: ModelPool, tmp_path: Path
) -> None:
    await loaded(pool, await registry.push(load_folder(tuned_folder(tmp_path))))
    chosen: dict[str, Any] = {
        "engine": "onnxruntime",
        "precision": "fp32",
        "file": "model.onnx",
        "count": 1,
    }
    folder = tuned_folder(tmp_path, **chosen)
    model = await loaded(pool, await registry.push(load_folder(folder)))
    assert (model.way.engine, model.way.precision, model.engines) == ("onnxruntime", "fp32", 1)


async def test_on_another_cpu_the_network_runs_as_it_is(
    registry: Registry, pool: ModelPool, tmp_path: Path
) -> None:
    folder = tuned_folder(tmp_path, seed=2, cpu=("abacus",))
    model = await loaded(pool, await registry.push(load_folder(folder)))
    assert (model.way.engine, model.way.precision) == ("onnxruntime", "fp32")
    assert "another kind of CPU" in model.way.why
    assert await answers_like(pool, 1)


async def test_a_file_that_cannot_be_run_gives_way_to_the_network_as_it_is(
    registry: Registry, pool: ModelPool, tmp_path: Path
) -> None:
    folder = tuned_folder(tmp_path)
    file = folder / "1" / "int8.onnx"
    file.write_bytes(b"no network")
    variants = Variants.model_validate_json((folder / "1" / "variants.json").read_bytes())
    broken = variants.artifacts[0].model_copy(update={"sha256": file_sha256(file)})
    write_variants(file.parent, variants.model_copy(update={"artifacts": (broken,)}))
    model = await loaded(pool, await registry.push(load_folder(folder)))
    assert model.way.engine == "onnxruntime"
    assert await answers_like(pool, 1)


async def test_a_file_that_the_mesh_has_lost_gives_way_to_the_network_as_it_is(
    registry: Registry, pool: ModelPool, tmp_path: Path
) -> None:
    record = await registry.push(load_folder(tuned_folder(tmp_path)))
    version = record.versions[1]
    assert version.variants is not None
    lost = version.variants.artifacts[0].model_copy(update={"sha256": "0" * 64})
    variants = version.variants.model_copy(update={"artifacts": (lost,)})
    versions = {1: version.model_copy(update={"variants": variants})}
    model = await loaded(pool, record.model_copy(update={"versions": versions}))
    assert model.way.engine == "onnxruntime"
    assert pool.states.failures == {}
