"""Nodes with the same device: one builds, the others fetch; what is removed is forgotten by all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from services.infer import engines
from services.infer.engines import tensorrt as adapter
from services.infer.engines.tensorrt.job import Job
from services.infer.loading import Loader
from services.infer.memory import NoRoom
from services.infer.opening import close_all
from services.infer.plans import MeshPlans
from tests.services.infer.conftest import image_of, load, pushed
from tests.services.infer.engines.tensorrt.pretended import pretended
from visionmesh.errors import Code, ConfigurationError
from visionmesh.gpu import open_gpu
from visionmesh.gpu.gpu import GpuMemoryError
from visionmesh.models.registry import Registry

ON_GPU = """
instances: [{device: emulated, engines: [tensorrt, onnxruntime]}]
batching: {max_size: 2}
"""


@pytest.fixture(autouse=True)
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the emulated device run plans, too."""
    trt = pretended()
    modules = {"tensorrt": adapter.__name__, **engines.ENGINES["emulated"]}
    monkeypatch.setattr(
        engines, "ENGINES", MappingProxyType({**engines.ENGINES, "emulated": modules})
    )
    monkeypatch.setattr(adapter, "load_runtime", lambda _: trt)


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
        loaded = await load(node, record)
        assert loaded.way.engine == "tensorrt"
        assert len(loaded.engines) == 2
        images = [image_of(0), image_of(1)]
        sums = loaded.engines[0].run(images)["sums"]
        np.testing.assert_allclose(sums[:, 0], [2.0 * image.sum() for image in images])
        await close_all(loaded.engines)
    (job,) = built
    assert job.sizes == (1, 2)
    assert nodes_with_plans(tmp_path) == ["one", "other"]

    await registry.remove("trees")
    for node in nodes:
        await node.forget(record.objects)

    assert nodes_with_plans(tmp_path) == []
    record = await pushed(registry, tmp_path / "trees", more=ON_GPU)
    await close_all((await load(nodes[1], record)).engines)
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
    loaded = await load(nodes[0], record)
    assert loaded.way.engine == "onnxruntime"
    assert "tensorrt on emulated: node 'head/frob' (Frobnicate): no such thing" in loaded.way.why
    assert not list((tmp_path / "one" / "plans").glob("building-*"))
    await close_all(loaded.engines)


async def test_while_a_plan_is_built_other_versions_are_loaded(
    registry: Registry,
    nodes: list[Loader],
    built: list[Job],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build: Callable[..., None] = vars(adapter)["build_plan"]
    begun, gate = threading.Event(), threading.Event()

    def wait(job: Job, *, told: Callable[[str], None], **more: Any) -> None:
        told("half of it")
        begun.set()
        assert gate.wait(20)
        build(job, **more)

    monkeypatch.setattr(adapter, "build_plan", wait)
    record = await pushed(registry, tmp_path / "trees", more=ON_GPU)
    heard: list[str] = []
    building = asyncio.create_task(load(nodes[0], record, heard.append))
    assert await asyncio.to_thread(begun.wait, 20)

    other = await pushed(registry, tmp_path / "trees", more="instances: [{device: emulated}]\n")
    loaded = await load(nodes[0], other)
    assert not loaded.exact, "what is built takes memory of the GPU meanwhile"
    await close_all(loaded.engines)
    assert heard == ["half of it"]
    assert built == []

    gate.set()
    loaded = await building
    assert (loaded.way.engine, loaded.exact, len(built)) == ("tensorrt", True, 1)
    await close_all(loaded.engines)


async def test_a_builder_that_lacks_memory_waits_for_others_to_give_it_back(
    registry: Registry,
    nodes: list[Loader],
    built: list[Job],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lack(job: Job, **_: Any) -> None:
        raise GpuMemoryError("9 GiB are wanted")

    monkeypatch.setattr(adapter, "build_plan", lack)
    record = await pushed(registry, tmp_path / "trees", more=ON_GPU)
    with pytest.raises(ConfigurationError, match=r"too large for its GPU: .*9 GiB are wanted"):
        await load(nodes[0], record)
    kept = open_gpu("emulated").share(1 << 30)
    with pytest.raises(NoRoom, match=r"has to wait until there is room: .*9 GiB are wanted"):
        await load(nodes[0], record)
    kept.close()
