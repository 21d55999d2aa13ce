from __future__ import annotations

import threading
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from services.infer.engines import Engine, open_engines
from tests.networks import expected, save_network
from tests.services.infer.engines.samples import (
    images_of,
    planar,
    rss,
    save,
    save_folding,
    save_wide,
    spec_of,
)
from visionmesh.errors import Code, ConfigurationError, Reject
from visionmesh.models.spec import Instance, ModelSpec

YOLOX = Path(__file__).parents[5] / "shared" / "data" / "models" / "yolox_nano.onnx"


class Open(Protocol):
    def __call__(
        self, file: Path, spec: ModelSpec, *, count: int = 1, threads: int = 1
    ) -> tuple[Engine, ...]: ...


@pytest.fixture(params=["onnxruntime", "openvino"])
def opened(request: pytest.FixtureRequest) -> Open:
    def opened(
        file: Path, spec: ModelSpec, *, count: int = 1, threads: int = 1
    ) -> tuple[Engine, ...]:
        instance = Instance(threads=threads)
        return open_engines(file, spec, instance, count=count, engine=request.param)

    return opened


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_free_batch_runs_with_as_many_images_as_there_are(
    opened: Open, tmp_path: Path, count: int
) -> None:
    (engine,) = opened(save_network(tmp_path / "m.onnx", seed=3), spec_of())
    engine.warm()
    images = images_of(count)

    scores = engine.run(images)["scores"]

    assert engine.batch_sizes == (1, 2, 3, 4)
    np.testing.assert_allclose(scores, expected(planar(images), 3), rtol=1e-4, atol=1e-3)
    engine.close()


@pytest.mark.parametrize(("fixed", "count"), [(1, 1), (4, 1), (4, 3), (4, 4)])
def test_a_fixed_batch_is_filled_up(opened: Open, tmp_path: Path, fixed: int, count: int) -> None:
    file = save_network(tmp_path / "m.onnx", shape=(fixed, 3, 8, 6), seed=3)
    (engine,) = opened(file, spec_of(max_size=2))
    engine.warm()
    engine.run(images_of(fixed, seed=9))
    images = images_of(count)

    scores = engine.run(images)["scores"]

    assert engine.batch_sizes == (fixed,)
    assert scores.shape == (count, 4)
    np.testing.assert_allclose(scores, expected(planar(images), 3), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "dtype"), [(TensorProto.UINT8, "uint8"), (TensorProto.FLOAT16, "float16")]
)
def test_a_network_gets_the_type_that_it_takes(
    opened: Open, tmp_path: Path, kind: int, dtype: str
) -> None:
    file = save_network(tmp_path / "m.onnx", dtype=kind, seed=5)
    (engine,) = opened(file, spec_of(dtype=dtype))
    images = images_of(2)
    np.testing.assert_allclose(
        engine.run(images)["scores"], expected(planar(images), 5), rtol=1e-4, atol=1e-3
    )


def test_pixels_reach_a_network_that_takes_bytes_as_they_are(opened: Open, tmp_path: Path) -> None:
    file = save_network(tmp_path / "m.onnx", dtype=TensorProto.UINT8, seed=5)
    (engine,) = opened(file, spec_of(dtype="uint8", scale=9, mean=(7.0,)))
    images = images_of(2)
    np.testing.assert_allclose(
        engine.run(images)["scores"], expected(planar(images), 5), rtol=1e-4, atol=1e-3
    )


def test_outputs_stay_what_they_are_when_the_engine_runs_again(
    opened: Open, tmp_path: Path
) -> None:
    (engine,) = opened(save_network(tmp_path / "m.onnx"), spec_of())
    first = engine.run(images_of(2, seed=1))["scores"]
    copy = first.copy()
    engine.run(images_of(2, seed=2))
    np.testing.assert_array_equal(first, copy)


@pytest.mark.parametrize("threads", [1, 2])
def test_engines_of_one_model_run_at_the_same_time(
    opened: Open, tmp_path: Path, threads: int
) -> None:
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


def test_engines_with_one_thread_keep_the_weights_in_memory_once(
    opened: Open, tmp_path: Path
) -> None:
    size = save_wide(tmp_path / "m.onnx")
    before = rss()
    engines = opened(tmp_path / "m.onnx", spec_of(), count=4)
    for engine in engines:
        engine.warm()
    assert rss() - before < 2.5 * size


def test_closed_engines_give_their_memory_back(opened: Open, tmp_path: Path) -> None:
    size = save_wide(tmp_path / "m.onnx")
    before = rss()
    engines = opened(tmp_path / "m.onnx", spec_of(), count=2)
    for engine in engines:
        engine.warm()
    assert rss() - before > 0.9 * size
    for engine in engines:
        engine.close()
    assert rss() - before < 0.5 * size


def test_an_image_that_the_network_cannot_work_on_is_rejected(opened: Open, tmp_path: Path) -> None:
    (engine,) = opened(save_folding(tmp_path / "m.onnx"), spec_of())
    engine.warm()
    good, bad = np.full((8, 6, 3), 6, np.uint8), np.full((8, 6, 3), 200, np.uint8)

    with pytest.raises(Reject, match="'trees' fails on the image") as raised:
        engine.run([good, bad])

    assert raised.value.code is Code.MODEL_FAILED
    assert engine.run([good])["found"].shape == (1, 24, 6)


def test_an_output_without_a_batch_is_found_by_warming(opened: Open, tmp_path: Path) -> None:
    mean = helper.make_node("ReduceMean", ["image"], ["found"], axes=[0], keepdims=1)
    (engine,) = opened(save(tmp_path / "m.onnx", [mean], {"found": ["m", 3, 8, 6]}), spec_of())
    with pytest.raises(ConfigurationError, match="first dimension must be the batch"):
        engine.warm()


def test_a_file_that_is_no_network_is_refused(opened: Open, tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(b"no network")
    with pytest.raises(ConfigurationError, match="cannot load model 'trees'"):
        opened(file, spec_of())


@pytest.mark.skipif(not YOLOX.exists(), reason="the YOLOX-nano network is not at hand")
def test_a_real_detector_answers_as_onnx_runtime_does(opened: Open) -> None:
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
