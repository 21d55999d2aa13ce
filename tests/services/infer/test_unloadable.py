"""Versions that cannot be loaded, warmed or run."""

from __future__ import annotations

import asyncio
import gc
from datetime import timedelta
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.numpy_helper import from_array

from services.infer.pool import ModelPool
from tests.networks import save_folder
from tests.services.infer.conftest import (
    LINGER,
    broken,
    pushed,
    right,
    scores,
    until_versions,
    versions,
)
from visionmesh.errors import Code, Reject, Retry
from visionmesh.models.folder import load_folder
from visionmesh.models.registry import Registry


async def test_the_old_version_serves_on_when_the_new_one_cannot_be_loaded(
    registry: Registry, pool: ModelPool, tmp_path: Path
) -> None:
    record = await pushed(registry, tmp_path / "trees", versions=(1,))
    await pool.apply("trees", record)
    lost = record.versions[1].model_copy(update={"sha256": "0" * 64})

    await pool.apply("trees", record.model_copy(update={"versions": {1: lost}}))

    np.testing.assert_allclose(await scores(pool, 1), right(1), rtol=1e-4)
    assert "push the model again" in pool.states.failures["trees", 1]


async def test_what_answered_before_is_kept_while_nothing_newer_can_be_loaded(
    registry: Registry, pool: ModelPool, tmp_path: Path
) -> None:
    record = await pushed(registry, tmp_path / "trees", versions=(1, 2))
    await pool.apply("trees", record.steered(weights={1: 1}))

    await pool.apply("trees", broken(record.steered(weights={2: 1}), 2))
    assert pool.versions == {"trees": (1,)}
    assert "push the model again" in pool.states.failures["trees", 2]
    await asyncio.sleep(3 * LINGER.total_seconds())
    assert versions(pool) == [1]

    await pool.apply("trees", record.steered(weights={2: 1}))
    assert pool.states.failures == {}
    await until_versions(pool, [2])


async def test_a_worker_that_starts_with_a_broken_version_loads_what_answered_before(
    registry: Registry, pool: ModelPool, tmp_path: Path
) -> None:
    record = await pushed(registry, tmp_path / "trees", versions=(1, 2, 3))
    told = record.steered(weights={1: 1}).steered(weights={3: 1})

    await pool.apply("trees", broken(told, 3))

    assert pool.versions == {"trees": (1,)}
    assert told.choose("id", "cam", ready=pool.versions["trees"]) == 1


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

    assert (
        "answers 2 images with an output 'scores' of shape (1, 8)"
        in pool.states.failures["trees", 1]
    )
    assert pool.versions == {}
    assert sessions() == before


async def test_a_version_that_no_engine_can_run_rejects_its_images(
    registry: Registry, pool: ModelPool, tmp_path: Path
) -> None:
    more = "instances: [{device: abacus}]\n"
    await pool.apply("trees", await pushed(registry, tmp_path / "trees", more=more))
    assert "no engine serves the device 'abacus'" in pool.states.failures["trees", 1]
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
