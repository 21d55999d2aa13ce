"""Nodes with the same device: one builds, the others fetch; what is removed is forgotten by all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from services.infer import engines
from services.infer.engines import tensorrt as adapter
from services.infer.engines.tensorrt.job import Job
from services.infer.loading import Loader, close_all
from services.infer.plans import MeshPlans
from tests.services.infer.conftest import image_of, pushed
from tests.services.infer.engines.tensorrt.pretended import pretended
from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.registry import Registry

ON_GPU = """
instances: [{device: emulated, engines: [tensorrt, onnxruntime]}]
batching: {max_size: 2}
"""


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Return the jobs of the builder, which is in place of a process with TensorRT."""
    jobs: list[Job] = []
    trt = pretended()

    def build(job: Job, **_: Any) -> None:
        jobs.append(job)
        profiles = [[size, size] for size in job.sizes]
        job.plan.write_text(json.dumps({"profiles": profiles, "shape": job.shape}))

    modules = {"tensorrt": adapter.__name__, **engines.ENGINES["emulated"]}
    monkeypatch.setattr(
        engines, "ENGINES", MappingProxyType({**engines.ENGINES, "emulated": modules})
    )
    monkeypatch.setattr(adapter, "load_runtime", lambda _: trt)
    monkeypatch.setattr(adapter, "build_plan", build)
    return jobs


@pytest.fixture
async def nodes(registry: Registry, tmp_path: Path) -> AsyncIterator[list[Loader]]:
    loop = asyncio.get_running_loop()
    loaders = [
        Loader(
            registry=registry,
            directory=tmp_path / node / "artifacts",
            plans=MeshPlans(registry.plans, tmp_path / node / "plans", loop=loop),
        )
        for node in ("one", "other")
    ]
    yield loaders
    for loader in loaders:
        loader.close()


def nodes_with_plans(folder: Path) -> list[str]:
    return sorted(file.parent.parent.name for file in folder.glob("*/plans/*.plan"))


async def test_one_node_builds_and_the_other_one_has_it(
    registry: Registry, nodes: list[Loader], built: list[Job], tmp_path: Path
) -> None:
    record = await pushed(registry, tmp_path / "trees", more=ON_GPU)
    for node in nodes:
        loaded = await node.load(record, 1)
        assert loaded.way.engine == "tensorrt"
        assert len(loaded.engines) == 2
        images = [image_of(0), image_of(1)]
        sums = loaded.engines[0].run(images)["sums"]
        np.testing.assert_allclose(sums[:, 0], [2.0 * image.sum() for image in images])
        close_all(loaded.engines)
    (job,) = built
    assert job.sizes == (1, 2)
    assert nodes_with_plans(tmp_path) == ["one", "other"]

    await registry.remove("trees")
    for node in nodes:
        await node.forget(record.objects)

    assert nodes_with_plans(tmp_path) == []
    record = await pushed(registry, tmp_path / "trees", more=ON_GPU)
    close_all((await nodes[1].load(record, 1)).engines)
    assert len(built) == 2, "the mesh has forgotten it, too"


async def test_what_tensorrt_cannot_build_is_run_by_the_next_engine(
    registry: Registry,
    nodes: list[Loader],
    built: list[Job],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(job: Job, **_: Any) -> None:
        raise ConfigurationError(Code.MODEL_INVALID, "node 'head/frob' (Frobnicate): no such thing")

    monkeypatch.setattr(adapter, "build_plan", refuse)
    record = await pushed(registry, tmp_path / "trees", more=ON_GPU)
    loaded = await nodes[0].load(record, 1)
    assert loaded.way.engine == "onnxruntime"
    assert "tensorrt on emulated: node 'head/frob' (Frobnicate): no such thing" in loaded.way.why
    assert not list((tmp_path / "one" / "plans").glob("building-*"))
    close_all(loaded.engines)
