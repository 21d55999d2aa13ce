from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from services.infer.batcher import Batch
from services.infer.loaded import LoadedModel
from services.infer.loading import Loader
from services.infer.pool import ModelPool
from tests.networks import save_network
from tests.services.infer.conftest import (
    broken,
    pushed,
    right,
    scores,
    until_versions,
    versions,
)
from visionmesh.errors import Miss, Retry
from visionmesh.models.folder import load_folder
from visionmesh.models.registry import Registry


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


async def test_a_shadow_is_kept_loaded(registry: Registry, pool: ModelPool, tmp_path: Path) -> None:
    record = await pushed(registry, tmp_path / "trees", versions=(1, 2))
    await pool.apply("trees", record.steered(shadow=1))
    assert versions(pool) == [1, 2]


async def test_an_idle_model_falls_asleep_and_wakes_with_the_next_image(
    registry: Registry, tmp_path: Path
) -> None:
    seen: list[list[int]] = []
    pool = ModelPool(
        loader=Loader(registry=registry, directory=tmp_path / "cache"),
        on_change=lambda: seen.append(versions(pool)),
    )
    await pool.apply("trees", await pushed(registry, tmp_path / "trees", more="keep_alive: 100ms"))

    for _ in range(2):
        await until_versions(pool, [])
        assert pool.versions == {"trees": (1,)}, "images may still be sent to it"
        np.testing.assert_allclose(await scores(pool, 1), right(1), rtol=1e-4)
    assert [told for told, _ in groupby(seen)][:5] == [[1], [], [1], [], [1]]
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


async def test_the_record_that_was_applied_is_told_once_it_was(
    registry: Registry, pool: ModelPool, tmp_path: Path
) -> None:
    record = await pushed(registry, tmp_path / "trees")
    await pool.apply("trees", record)
    assert pool.applied == {"trees": record.revision}
    lost = broken(record, 1).model_copy(update={"revision": record.revision + 1})
    applying = asyncio.create_task(pool.apply("trees", lost))
    await asyncio.sleep(0)
    assert pool.applied == {}
    await applying
    assert pool.applied == {"trees": lost.revision}
    await pool.apply("trees", None)
    assert pool.applied == {}


async def test_a_file_that_is_replaced_is_not_current_until_it_is_loaded(
    registry: Registry, pool: ModelPool, tmp_path: Path
) -> None:
    record = await pushed(registry, tmp_path / "trees")
    await pool.apply("trees", record)
    assert pool.is_current("trees", 1)
    await pool.apply("trees", broken(record, 1))
    assert not pool.is_current("trees", 1)


async def test_an_image_for_another_input_size_is_a_miss(
    registry: Registry, pool: ModelPool, tmp_path: Path
) -> None:
    await pool.apply("trees", await pushed(registry, tmp_path / "trees"))
    with pytest.raises(Miss, match="does not take an image of uint8"):
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

    pool = ModelPool(
        loader=Loader(registry=registry, directory=tmp_path / "cache"), on_batch=listen
    )
    await pool.apply("trees", await pushed(registry, tmp_path / "trees"))
    await scores(pool, 1)
    assert told == [("trees", 1, 1)]
    await pool.close()


async def test_an_unloaded_model_leaves_the_memory_and_comes_back(
    registry: Registry, pool: ModelPool, tmp_path: Path
) -> None:
    record = await pushed(registry, tmp_path / "trees", versions=(1, 2))
    await pool.apply("trees", record)

    await pool.apply("trees", record.model_copy(update={"parked": True}))
    assert pool.versions == {}
    with pytest.raises(Retry):
        await scores(pool, 2)
    assert pool.versions == {}

    await pool.apply("trees", record)
    assert versions(pool) == [2]
    np.testing.assert_allclose(await scores(pool, 2), right(2), rtol=1e-4)
