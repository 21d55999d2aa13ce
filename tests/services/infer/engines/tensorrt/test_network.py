"""A plan runs on the device that images lie on; what it cannot do is told in its own words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from services.infer.engines import Engine
from services.infer.engines import tensorrt as adapter
from services.infer.engines.tensorrt.job import Job
from services.infer.engines.tensorrt.key import plan_key
from services.infer.engines.tensorrt.network import load_plan
from services.infer.engines.tensorrt.options import Options
from services.infer.engines.tensorrt.runtime import failure, listener
from services.infer.plans import FolderPlans
from tests.services.infer.engines.tensorrt.conftest import SHAPE
from tests.services.infer.engines.tensorrt.pretended import pretended
from visionmesh.errors import Code, ConfigurationError, Reject
from visionmesh.gpu import GpuError, open_gpu
from visionmesh.gpu.gpu import GpuMemoryError
from visionmesh.models.artifacts import file_sha256
from visionmesh.models.spec import Instance, ModelSpec
from visionmesh.models.variants import Precision

EACH = [[1, 1], [2, 2], [4, 4]]

Open = Callable[..., tuple[Engine, ...]]


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = pretended()
    monkeypatch.setattr(adapter, "load_runtime", lambda _: module)
    return module


@pytest.fixture
def opened(trt: Any, spec: ModelSpec, plans: FolderPlans, tmp_path: Path) -> Open:
    """Return engines of a plan that some node has built."""

    def open_it(*, count: int = 1, options: dict[str, Any] | None = None, **told: Any) -> Any:
        weights, file = tmp_path / "model.onnx", tmp_path / "made.plan"
        weights.write_bytes(b"a network")
        file.write_text(json.dumps({"profiles": EACH, "shape": SHAPE} | told))
        instance = Instance(device="emulated", options=options or {})
        key = plan_key(
            trt,
            open_gpu("emulated").info,
            network=file_sha256(weights),
            shape=SHAPE,
            sizes=(1, 2, 4),
            options=Options.of(spec, instance).build,
        )
        plans.put(str(key), file)
        return adapter.open_engines(
            weights, spec, instance, count=count, precision=Precision.FP32, plans=plans
        )

    return open_it


def images_of(count: int) -> list[Any]:
    rng = np.random.default_rng(count)
    return [rng.integers(0, 256, (8, 6, 3), np.uint8) for _ in range(count)]


@pytest.mark.parametrize("profiles", [EACH, [[1, 4]]], ids=["each", "one"])
@pytest.mark.parametrize("graphs", [True, False])
def test_every_number_of_images_is_answered(
    opened: Open, trt: Any, profiles: Any, graphs: bool
) -> None:
    (engine,) = opened(profiles=profiles, options={"graphs": graphs})
    assert engine.batch_sizes == (1, 2, 4)
    engine.warm()
    for count in (1, 2, 3, 4, 3, 1):
        images = images_of(count)
        outputs = engine.run(images)
        expected = [[2.0 * image.sum(dtype=float)] for image in images]
        np.testing.assert_allclose(outputs["sums"], expected, rtol=1e-6)
    (plan,) = trt.Runtime.engines
    assert [context.shape[0] for context in plan.contexts] == [1, 2, 4]
    assert [context.profile for context in plan.contexts] == (
        [0, 1, 2] if len(profiles) == 3 else [0, 0, 0]
    )
    assert plan.ran[-6:] == [1, 2, 4, 4, 4, 1]
    engine.close()


def test_slots_share_the_weights_and_nothing_else(opened: Open, trt: Any) -> None:
    engines = opened(count=2)
    for engine in engines:
        engine.warm()
    one, other = (engine.run(images_of(1)) for engine in engines)
    np.testing.assert_array_equal(one["sums"], other["sums"])
    assert len(trt.Runtime.engines) == 1
    contexts = trt.Runtime.engines[0].contexts
    assert len(contexts) == 6
    memories = {context.memory[0] for context in contexts}
    assert len(memories) == 2, "contexts of one slot work in the same memory"
    addresses = [address for context in contexts for address in context.addresses.values()]
    assert len({*addresses}) == 2 + 6, "each slot has its batch, each size its outputs"
    for engine in engines:
        engine.close()


def test_a_network_of_one_size_runs_with_it_only(opened: Open) -> None:
    (engine,) = opened(batch=2, profiles=[[2, 2]])
    engine.warm()
    assert engine.batch_sizes == (2,)
    assert engine.run(images_of(1))["sums"].shape == (1, 1)
    engine.close()


def test_an_output_whose_size_the_images_decide_is_refused(opened: Open) -> None:
    (engine,) = opened(unknown=True)
    with pytest.raises(ConfigurationError, match=r"'sums', \(-1, 3\), depends on what is in"):
        engine.warm()
    engine.close()


@pytest.mark.parametrize(
    ("told", "why"), [({"dtype": "BF16"}, "'sums' is BF16"), ({"location": 1}, "is a shape")]
)
def test_an_output_that_is_no_array_is_refused(
    opened: Open, told: dict[str, Any], why: str
) -> None:
    with pytest.raises(ConfigurationError, match=why):
        opened(**told)


@pytest.mark.parametrize(
    ("told", "why"),
    [({"misfit": True}, "reshape_3: 5 is no multiple"), ({"taken": True}, "profile 0 is in use")],
)
def test_what_a_context_does_not_take_is_told_in_tensorrts_words(
    opened: Open, told: dict[str, Any], why: str
) -> None:
    (engine,) = opened(**told)
    with pytest.raises(ConfigurationError, match=why):
        engine.warm()
    engine.close()


def test_what_cannot_be_captured_runs_without_a_graph(
    opened: Open, trt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def capture(_: Any) -> Any:
        listener(trt).log(trt.ILogger.Severity.ERROR, "out of memory while capturing")
        raise GpuError("operation not permitted when stream is capturing")

    (engine,) = opened()
    stream = type(open_gpu("emulated").stream())
    monkeypatch.setattr(stream, "capture", lambda self, work: capture(work))
    engine.warm()
    (image,) = images_of(1)
    np.testing.assert_allclose(engine.run([image])["sums"], [[2.0 * image.sum(dtype=float)]])
    assert str(failure(trt, "a run")) == "a run: TensorRT does not say why", "that was told"
    engine.close()


def test_a_device_without_room_for_all_sizes_runs_those_it_has_room_for(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Scarce(ModuleType):
        """Memory for what one profile wants, and not for all."""

        def __getattr__(self, name: str) -> Any:
            return getattr(np, name)

        def empty(self, shape: Any, dtype: Any) -> Any:
            if shape == (1024,):
                raise MemoryError("out of memory allocating 1024 bytes")
            return np.empty(shape, dtype)

    monkeypatch.setattr(type(open_gpu("emulated")), "xp", Scarce("scarce"))
    (engine,) = opened()
    engine.warm()
    assert engine.batch_sizes == (1, 2, 4)
    assert len(engine.run(images_of(3))["sums"]) == 3
    engine.close()


def test_a_plan_for_other_images_is_refused(opened: Open) -> None:
    with pytest.raises(ConfigurationError, match=r"\(3, 9, 9\), where model.yaml says") as told:
        opened(shape=(3, 9, 9))
    assert told.value.code == Code.MODEL_INVALID


def test_a_failed_run_tells_what_tensorrt_said(opened: Open, trt: Any) -> None:
    (engine,) = opened()
    engine.warm()
    (plan,) = trt.Runtime.engines
    plan.told.update(fails=2, reason="layer conv_7 is\n  not happy")
    with pytest.raises(Reject, match="layer conv_7 is not happy"):
        engine.run(images_of(2))
    assert len(engine.run(images_of(1))["sums"]) == 1
    engine.close()


def test_too_little_memory_while_running_halves_the_batches(opened: Open, trt: Any) -> None:
    (engine,) = opened()
    engine.warm()
    (plan,) = trt.Runtime.engines
    plan.told.update(fails=4, reason="Cuda Runtime (out of memory)")
    assert len(engine.run(images_of(4))["sums"]) == 4
    assert engine.batch_sizes == (1, 2)
    engine.close()


def test_a_stored_plan_that_does_not_load_is_built_again(
    opened: Open, trt: Any, monkeypatch: pytest.MonkeyPatch, plans: FolderPlans, built: list[Job]
) -> None:
    real = trt.Runtime.deserialize_cuda_engine
    monkeypatch.setattr(
        trt.Runtime,
        "deserialize_cuda_engine",
        lambda self, content: real(self, b"?" if b"unfit" in content else content),
    )
    (engine,) = opened(unfit=True)
    engine.warm()
    engine.close()
    (job,) = built
    assert job.sizes == (1, 2, 4)
    assert job.timings is not None
    assert job.timings.parent == plans.folder
    (stored,) = plans.folder.glob("*.plan")
    assert "unfit" not in stored.read_text(), "the next one loads it"
    assert not list(plans.folder.glob("building-*"))


def test_a_plan_that_is_forgotten_before_it_is_read_is_built_again(
    opened: Open, monkeypatch: pytest.MonkeyPatch, plans: FolderPlans, built: list[Job]
) -> None:
    def get(key: str) -> Path | None:
        found = FolderPlans.get(plans, key)
        plans.forget([key.partition(".")[0]])
        return found

    monkeypatch.setattr(plans, "get", get)
    (engine,) = opened()
    assert len(built) == 1
    engine.close()


def test_what_nobody_has_built_is_built_and_stored(
    trt: Any, spec: ModelSpec, plans: FolderPlans, built: list[Job], tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"a network")
    for store in (plans, plans, None):
        (engine,) = adapter.open_engines(
            tmp_path / "model.onnx",
            spec,
            Instance(device="emulated"),
            count=1,
            precision=Precision.FP32,
            plans=store,
        )
        engine.close()
    assert len(built) == 2, "once for the store, and once without one"
    assert not built[1].plan.parent.exists()


def test_errors_are_told_once_and_memory_by_its_kind(trt: Any) -> None:
    heard = listener(trt)
    for message in ("first\n line", "second", "first\n line"):
        heard.log(trt.ILogger.Severity.ERROR, message)
    assert str(failure(trt, "no plan")) == "no plan: first line; second"
    assert str(failure(trt, "no plan")) == "no plan: TensorRT does not say why"
    for message in ("Cuda Runtime (out of memory)", "Error Code 2: OutOfMemory (no further …)"):
        heard.log(trt.ILogger.Severity.ERROR, message)
        assert isinstance(failure(trt, "no plan"), GpuMemoryError)
    assert not isinstance(failure(trt, "no plan"), GpuMemoryError)
    assert isinstance(failure(trt, "no plan"), GpuError)


def test_a_runtime_that_does_not_start_is_told_in_tensorrts_words(
    trt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(self: Any, logger: Any) -> None:
        logger.log(trt.ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(trt.Runtime, "__init__", start)
    with pytest.raises(GpuError, match="TensorRT does not start: CUDA initialization failure"):
        load_plan(trt, Path(__file__), sizes=(1,))


def test_errors_of_other_threads_are_no_reasons(trt: Any) -> None:
    heard = listener(trt)
    other = Thread(target=heard.log, args=(trt.ILogger.Severity.ERROR, "out of memory"))
    other.start()
    other.join()
    assert not isinstance(failure(trt, "no plan"), GpuMemoryError)
