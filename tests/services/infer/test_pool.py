from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nats
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx.numpy_helper import from_array

from services.infer.batcher import Batch
from services.infer.loaded import LoadedModel
from services.infer.pool import ModelPool
from tests.networks import expected, save_folder, save_network
from visionmesh.errors import Code, Miss, Reject, Retry
from visionmesh.models.folder import load_folder
from visionmesh.models.record import ModelRecord
from visionmesh.models.registry import Registry

LINGER = timedelta(milliseconds=100)


@pytest.fixture
async def registry(nats_url: str) -> AsyncIterator[Registry]:
    nc = await nats.connect(nats_url)
    registry = Registry(nc)
    yield registry
    if any(record.spec.name == "trees" for record in await registry.list()):
        await registry.remove("trees")
    await nc.close()


@pytest.fixture
async def pool(registry: Registry, tmp_path: Path) -> AsyncIterator[ModelPool]:
    pool = ModelPool(registry=registry, directory=tmp_path / "cache", linger=LINGER)
    yield pool
    await pool.close()


async def pushed(registry: Registry, folder: Path, **more: Any) -> ModelRecord:
    return await registry.push(load_folder(save_folder(folder, **more)), replace=True)


def image_of(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (8, 6, 3), np.uint8)


async def scores(pool: ModelPool, version: int, seed: int = 0) -> NDArray[Any]:
    output = await pool.infer("trees", version, image_of(seed))
    answer: NDArray[Any] = output.outputs["scores"]
    return answer


def right(version: int, seed: int = 0) -> NDArray[Any]:
    """Return what version ``version`` says of an image; its weights have the version as seed."""
    (answer,) = expected(image_of(seed).transpose(2, 0, 1)[None].astype(np.float32), version)
    return np.asarray(answer)


def versions(pool: ModelPool) -> list[int]:
    return [model.version for model in pool.loaded]


async def until_versions(pool: ModelPool, wanted: list[int]) -> None:
    deadline = time.monotonic() + 10
    while versions(pool) != wanted:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_versions_with_traffic_are_loaded_and_answer(
    registry: Registry, pool: ModelPool, tmp_path: Path
) -> None:
    record = await pushed(
        registry, tmp_path / "trees", versions=(1, 2, 3), more="traffic: {1: 1, 3: 9}\n"
    )
    await pool.apply("trees", record)

    assert versions(pool) == [1, 3]
    for version in (1, 3):
        np.testing.assert_allclose(await scores(pool, version), right(version), rtol=1e-4)


async def test_a_late_image_finds_its_version_and_that_is_dropped_again(
    registry: Registry, pool: ModelPool, tmp_path: Path
) -> None:
    record = await pushed(registry, tmp_path / "trees", versions=(1, 2))
    await pool.apply("trees", record)
    assert versions(pool) == [2]

    answers = await asyncio.gather(*(scores(pool, 1, seed) for seed in range(5)))

    for seed, answer in enumerate(answers):
        np.testing.assert_allclose(answer, right(1, seed), rtol=1e-4)
    assert versions(pool) == [1, 2]
    await until_versions(pool, [2])


async def test_what_the_mesh_has_no_more_is_deleted_from_the_node(
    registry: Registry, pool: ModelPool, tmp_path: Path
) -> None:
    def cached() -> set[str]:
        return {file.stem for file in (tmp_path / "cache").glob("*.onnx")}

    oaks = await pushed(registry, tmp_path / "oaks", versions=(1, 2))
    pines = await pushed(registry, tmp_path / "pines", versions=(2,))
    for record in (oaks, pines):
        await pool.apply(record.spec.name, record)
    both = await registry.change("oaks", lambda old: old.steered(weights={1: 1, 2: 1}))
    await pool.apply("oaks", both)
    assert cached() == both.objects

    await registry.change("oaks", lambda old: old.steered(weights={2: 1}))
    await pool.apply("oaks", await registry.change("oaks", lambda old: old.without(1)))
    assert cached() == pines.objects
    await pool.apply("oaks", None)
    assert cached() == pines.objects, "another model runs the same file"
    await pool.apply("pines", None)
    assert cached() == set()


async def test_an_exchange_under_load_fails_no_image(
    registry: Registry, pool: ModelPool, tmp_path: Path
) -> None:
    folder = tmp_path / "trees"
    await pool.apply("trees", await pushed(registry, folder))
    answers: list[NDArray[Any]] = []
    enough = asyncio.Event()

    async def load() -> None:
        while not enough.is_set():
            answers.append(await scores(pool, 1))

    load_tasks = [asyncio.create_task(load()) for _ in range(20)]
    for seed in range(2, 6):
        save_network(folder / "1" / "model.onnx", seed=seed)
        await pool.apply("trees", await registry.push(load_folder(folder), replace=True))
        np.testing.assert_allclose(await scores(pool, 1), right(seed), rtol=1e-4)
    enough.set()
    await asyncio.gather(*load_tasks)

    builds = np.stack([right(seed) for seed in range(1, 6)])
    near = np.isclose(np.stack(answers)[:, None], builds, rtol=1e-4).all(axis=2)
    assert (near.sum(axis=1) == 1).all(), "each image was answered by one of the builds"


async def test_the_old_version_serves_on_when_the_new_one_cannot_be_loaded(
    registry: Registry, pool: ModelPool, tmp_path: Path
) -> None:
    record = await pushed(registry, tmp_path / "trees", versions=(1,))
    await pool.apply("trees", record)
    lost = record.versions[1].model_copy(update={"sha256": "0" * 64})

    await pool.apply("trees", record.model_copy(update={"versions": {1: lost}}))

    np.testing.assert_allclose(await scores(pool, 1), right(1), rtol=1e-4)
    assert "push the model again" in pool.failures["trees", 1]


def broken(record: ModelRecord, version: int) -> ModelRecord:
    """Return the record with a file for ``version`` that the mesh does not have."""
    lost = record.versions[version].model_copy(update={"sha256": "0" * 64})
    return record.model_copy(update={"versions": {**record.versions, version: lost}})


async def test_what_answered_before_is_kept_while_nothing_newer_can_be_loaded(
    registry: Registry, pool: ModelPool, tmp_path: Path
) -> None:
    record = await pushed(registry, tmp_path / "trees", versions=(1, 2))
    await pool.apply("trees", record.steered(weights={1: 1}))

    await pool.apply("trees", broken(record.steered(weights={2: 1}), 2))
    assert pool.versions == {"trees": (1,)}
    assert "push the model again" in pool.failures["trees", 2]
    await asyncio.sleep(3 * LINGER.total_seconds())
    assert versions(pool) == [1]

    await pool.apply("trees", record.steered(weights={2: 1}))
    assert pool.failures == {}
    await until_versions(pool, [2])


async def test_a_worker_that_starts_with_a_broken_version_loads_what_answered_before(
    registry: Registry, pool: ModelPool, tmp_path: Path
) -> None:
    record = await pushed(registry, tmp_path / "trees", versions=(1, 2, 3))
    told = record.steered(weights={1: 1}).steered(weights={3: 1})

    await pool.apply("trees", broken(told, 3))

    assert pool.versions == {"trees": (1,)}
    assert told.choose("id", "cam", ready=pool.versions["trees"]) == 1


async def test_a_shadow_is_kept_loaded(registry: Registry, pool: ModelPool, tmp_path: Path) -> None:
    record = await pushed(registry, tmp_path / "trees", versions=(1, 2))
    await pool.apply("trees", record.steered(shadow=1))
    assert versions(pool) == [1, 2]


def sessions() -> int:
    """Return how many networks ONNX Runtime holds in this process."""
    gc.collect()
    # `isinstance` would ask objects that warn when they are asked.
    return sum(issubclass(type(one), onnxruntime.InferenceSession) for one in gc.get_objects())


async def test_a_version_that_cannot_be_warmed_is_freed(
    registry: Registry, pool: ModelPool, tmp_path: Path
) -> None:
    folder = save_folder(tmp_path / "trees")
    network = onnx.load(folder / "1" / "model.onnx")
    flatten = network.graph.node.pop()
    # What no check can foresee: sizes that only a run tells.
    network.graph.initializer.append(from_array(np.array([1, -1], np.float32), "sizes"))
    network.graph.node.extend(
        [
            onnx.helper.make_node("Cast", ["sizes"], ["one"], to=onnx.TensorProto.INT64),
            onnx.helper.make_node("Reshape", [flatten.input[0], "one"], flatten.output),
        ]
    )
    onnx.save(network, folder / "1" / "model.onnx")
    before = sessions()

    await pool.apply("trees", await registry.push(load_folder(folder)))

    assert "answers 2 images with an output 'scores' of shape (1, 8)" in pool.failures["trees", 1]
    assert pool.versions == {}
    assert sessions() == before


async def test_an_idle_model_falls_asleep_and_wakes_with_the_next_image(
    registry: Registry, tmp_path: Path
) -> None:
    changes = asyncio.Event()
    pool = ModelPool(registry=registry, directory=tmp_path / "cache", on_change=changes.set)
    await pool.apply("trees", await pushed(registry, tmp_path / "trees", more="keep_alive: 100ms"))
    assert versions(pool) == [1]

    for _ in range(2):
        changes.clear()
        await until_versions(pool, [])
        assert changes.is_set()
        assert pool.versions == {"trees": (1,)}, "images may still be sent to it"
        np.testing.assert_allclose(await scores(pool, 1), right(1), rtol=1e-4)
        assert versions(pool) == [1]
    await pool.apply("trees", None)
    assert pool.versions == {}
    await pool.close()


async def test_what_is_loaded_is_told_with_its_memory(
    registry: Registry, pool: ModelPool, tmp_path: Path
) -> None:
    await pool.apply("trees", await pushed(registry, tmp_path / "trees"))
    [told] = [model.told() for model in pool.loaded]
    assert (told.model, told.version, told.devices) == ("trees", 1, ("cpu",))
    assert (told.engine, told.precision) == ("onnxruntime", "fp32")
    assert told.memory_bytes >= 0
    assert told.since <= datetime.now(UTC)


async def test_a_file_that_is_replaced_is_not_current_until_it_is_loaded(
    registry: Registry, pool: ModelPool, tmp_path: Path
) -> None:
    record = await pushed(registry, tmp_path / "trees")
    await pool.apply("trees", record)
    assert pool.is_current("trees", 1)
    await pool.apply("trees", broken(record, 1))
    assert not pool.is_current("trees", 1)


async def test_a_version_that_no_engine_can_run_rejects_its_images(
    registry: Registry, pool: ModelPool, tmp_path: Path
) -> None:
    more = "instances: [{device: abacus}]\n"
    await pool.apply("trees", await pushed(registry, tmp_path / "trees", more=more))
    assert "no engine serves the device 'abacus'" in pool.failures["trees", 1]
    with pytest.raises(Reject) as raised:
        await scores(pool, 1)
    assert raised.value.code is Code.MODEL_INVALID


async def test_what_is_not_known_yet_is_tried_again(
    registry: Registry, pool: ModelPool, tmp_path: Path
) -> None:
    with pytest.raises(Retry) as raised:
        await scores(pool, 1)
    assert raised.value.delay > timedelta(0)
    await pool.apply("trees", await pushed(registry, tmp_path / "trees"))
    with pytest.raises(Retry):
        await scores(pool, 2)


async def test_an_image_for_another_input_size_is_a_miss(
    registry: Registry, pool: ModelPool, tmp_path: Path
) -> None:
    await pool.apply("trees", await pushed(registry, tmp_path / "trees"))
    with pytest.raises(Miss, match="takes"):
        await pool.infer("trees", 1, np.zeros((6, 8, 3), np.uint8))


async def test_a_removed_model_is_drained_and_its_threads_end(
    registry: Registry, pool: ModelPool, tmp_path: Path
) -> None:
    await pool.apply("trees", await pushed(registry, tmp_path / "trees"))
    waiting = [asyncio.create_task(scores(pool, 1, seed)) for seed in range(30)]
    await asyncio.sleep(0)

    await pool.apply("trees", None)

    assert pool.loaded == ()
    for seed, answer in enumerate(await asyncio.gather(*waiting)):
        np.testing.assert_allclose(answer, right(1, seed), rtol=1e-4)
    await pool.close()
    engines = [t for t in threading.enumerate() if t.name.startswith("engine")]
    for thread in engines:
        thread.join(10)
    assert not any(thread.is_alive() for thread in engines)


async def test_batches_are_told_with_their_model(registry: Registry, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []

    def listen(model: LoadedModel, batch: Batch) -> None:
        told.append((model.name, model.version, batch.size))

    pool = ModelPool(registry=registry, directory=tmp_path / "cache", on_batch=listen)
    await pool.apply("trees", await pushed(registry, tmp_path / "trees"))
    await scores(pool, 1)
    assert told == [("trees", 1, 1)]
    await pool.close()
