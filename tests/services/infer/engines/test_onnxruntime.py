from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import psutil
import pytest
from onnx import TensorProto, helper, save_model
from onnx.numpy_helper import from_array

from services.infer.engines import Engine, open_engines
from tests.networks import expected, save_network
from visionmesh.errors import Code, ConfigurationError, Reject
from visionmesh.models.spec import Instance, ModelSpec

YOLOX = Path(__file__).parents[5] / "shared" / "data" / "models" / "yolox_nano.onnx"


def spec_of(*, max_size: int = 4, device: str = "cpu", **image: Any) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": "trees",
            "task": "classification",
            "input": {"width": 6, "height": 8, **image},
            "output": {"decoder": "softmax"},
            "batching": {"max_size": max_size},
            "instances": [{"device": device}],
        }
    )


def opened(file: Path, spec: ModelSpec, *, count: int = 1, threads: int = 1) -> tuple[Engine, ...]:
    instance = Instance(device=spec.instances[0].device, threads=threads)
    return open_engines(file, spec, instance, count=count)


def images_of(count: int, *, seed: int = 0, channels: int = 3) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (8, 6, channels), np.uint8) for _ in range(count)]


def planar(images: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    return np.stack(images).transpose(0, 3, 1, 2).astype(np.float32)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_free_batch_runs_with_as_many_images_as_there_are(tmp_path: Path, count: int) -> None:
    (engine,) = opened(save_network(tmp_path / "m.onnx", seed=3), spec_of())
    engine.warm()
    images = images_of(count)

    scores = engine.run(images)["scores"]

    assert engine.batch_sizes == (1, 2, 3, 4)
    np.testing.assert_allclose(scores, expected(planar(images), 3), rtol=1e-4, atol=1e-3)
    engine.close()


@pytest.mark.parametrize(("fixed", "count"), [(1, 1), (4, 1), (4, 3), (4, 4)])
def test_a_fixed_batch_is_filled_up(tmp_path: Path, fixed: int, count: int) -> None:
    file = save_network(tmp_path / "m.onnx", shape=(fixed, 3, 8, 6), seed=3)
    (engine,) = opened(file, spec_of(max_size=2))
    engine.warm()
    engine.run(images_of(fixed, seed=9))
    images = images_of(count)

    scores = engine.run(images)["scores"]

    assert engine.batch_sizes == (fixed,)
    assert scores.shape == (count, 4)
    np.testing.assert_allclose(scores, expected(planar(images), 3), rtol=1e-4, atol=1e-3)


def test_bytes_reach_a_network_that_takes_bytes(tmp_path: Path) -> None:
    file = save_network(tmp_path / "m.onnx", dtype=TensorProto.UINT8, seed=5)
    (engine,) = opened(file, spec_of(dtype="uint8", scale=9, mean=(7.0,)))
    images = images_of(2)
    np.testing.assert_allclose(
        engine.run(images)["scores"], expected(planar(images), 5), rtol=1e-4, atol=1e-3
    )


def test_outputs_stay_what_they_are_when_the_engine_runs_again(tmp_path: Path) -> None:
    (engine,) = opened(save_network(tmp_path / "m.onnx"), spec_of())
    first = engine.run(images_of(2, seed=1))["scores"]
    copy = first.copy()
    engine.run(images_of(2, seed=2))
    np.testing.assert_array_equal(first, copy)


@pytest.mark.parametrize("threads", [1, 2])
def test_engines_of_one_model_run_at_the_same_time(tmp_path: Path, threads: int) -> None:
    file = save_network(tmp_path / "m.onnx", seed=3)
    engines = opened(file, spec_of(), count=3, threads=threads)
    assert len(engines) == 3
    wrong: list[int] = []

    def work(number: int) -> None:
        for turn in range(200):
            images = images_of(1 + turn % 4, seed=number * 1000 + turn)
            scores = engines[number].run(images)["scores"]
            if not np.allclose(scores, expected(planar(images), 3), rtol=1e-4, atol=1e-3):
                wrong.append(turn)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_engines_with_one_thread_keep_the_weights_in_memory_once(tmp_path: Path) -> None:
    table = np.random.default_rng(0).random((144, 100_000), np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["row"]),
            helper.make_node("MatMul", ["row", "table"], ["found"]),
        ],
        "wide",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 6])],
        [helper.make_tensor_value_info("found", TensorProto.FLOAT, ["n", 100_000])],
        [from_array(table, "table")],
    )
    file = tmp_path / "m.onnx"
    save_model(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), file
    )
    del graph
    before = psutil.Process().memory_info().rss

    engines = opened(file, spec_of(), count=4)
    for engine in engines:
        engine.warm()

    assert psutil.Process().memory_info().rss - before < 1.5 * table.nbytes


def save_lookup(file: Path) -> Path:
    """Write a network that looks up the brightest value of an image in a table of 100 rows."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["image"], ["most"], axes=[1, 2, 3], keepdims=0),
            helper.make_node("Cast", ["most"], ["row"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "row"], ["found"], axis=0),
        ],
        "lookup",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 6])],
        [helper.make_tensor_value_info("found", TensorProto.FLOAT, ["n", 2])],
        [from_array(np.arange(200, dtype=np.float32).reshape(100, 2), "table")],
    )
    save_model(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), file
    )
    return file


def test_an_image_that_the_network_cannot_work_on_is_rejected(tmp_path: Path) -> None:
    (engine,) = opened(save_lookup(tmp_path / "m.onnx"), spec_of())
    engine.warm()
    good, bad = np.full((8, 6, 3), 7, np.uint8), np.full((8, 6, 3), 200, np.uint8)

    with pytest.raises(Reject, match="fails on the image") as raised:
        engine.run([good, bad])

    assert raised.value.code is Code.MODEL_FAILED
    np.testing.assert_array_equal(engine.run([good])["found"], [[14, 15]])


def test_an_output_without_a_batch_is_found_by_warming(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["image"], ["mean"], axes=[0], keepdims=1)],
        "mixing",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 6])],
        [helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["m", 3, 8, 6])],
    )
    file = tmp_path / "m.onnx"
    save_model(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), file
    )
    (engine,) = opened(file, spec_of())
    with pytest.raises(ConfigurationError, match="first dimension must be the batch"):
        engine.warm()


def test_a_file_that_is_no_network_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(b"no network")
    with pytest.raises(ConfigurationError, match="cannot load model 'trees'"):
        opened(file, spec_of())


def test_a_device_that_nothing_serves_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no engine serves the device 'abacus:0'"):
        opened(tmp_path / "m.onnx", spec_of(device="abacus:0"))


@pytest.mark.skipif(not YOLOX.exists(), reason="the YOLOX-nano network is not at hand")
def test_a_real_detector_answers_as_onnx_runtime_does() -> None:
    spec = ModelSpec.model_validate(
        {
            "name": "yolox",
            "task": "detection",
            "input": {"width": 416, "height": 416, "color": "BGR"},
            "output": {"decoder": "yolox"},
        }
    )
    image = np.random.default_rng(1).integers(0, 256, (416, 416, 3), np.uint8)
    session = onnxruntime.InferenceSession(YOLOX, providers=["CPUExecutionProvider"])
    (reference,) = session.run(None, {"images": planar([image])})

    (engine,) = opened(YOLOX, spec)

    assert engine.batch_sizes == (1,)
    np.testing.assert_allclose(engine.run([image])["output"], reference, rtol=1e-4, atol=1e-4)
