"""The builder at work, with TensorRT for RTX: it has TensorRT's interface, and needs no GPU.

It builds, and does not run: plans are loaded on devices only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

from services.infer.engines.tensorrt import building
from services.infer.engines.tensorrt.building import build_plan
from services.infer.engines.tensorrt.network import load_plan
from services.infer.plans import FolderPlans
from tests.networks import save_network
from tests.services.infer.engines.tensorrt.conftest import SHAPE, MakeJob
from visionmesh.errors import ConfigurationError
from visionmesh.gpu.gpu import GpuError

trt: Any = pytest.importorskip("tensorrt_rtx", reason="it builds plans where there is no GPU")

HOUR = timedelta(hours=1)

Build = Callable[..., Any]


@pytest.fixture
def build(job_of: MakeJob, plans: FolderPlans) -> Build:
    """Return the builder's own process at work, which returns the job that it did."""

    def do(weights: Path, **different: Any) -> Any:
        job = job_of(weights, **different)
        build_plan(job, model="trees", timeout=HOUR, plans=plans)
        return job

    return do


def save(file: Path, nodes: list[Any], *, outputs: list[Any], weights: Any = ()) -> Path:
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", *SHAPE])],
        outputs,
        [from_array(values, name) for name, values in dict(weights).items()],
    )
    domains = [helper.make_opsetid("", 19), helper.make_opsetid("org.nobody", 1)]
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=9), file)
    return file


def test_a_network_is_built_for_each_batch_size(build: Build, tmp_path: Path) -> None:
    each = build(save_network(tmp_path / "m.onnx")).plan.stat().st_size
    one = build(tmp_path / "m.onnx", options={"profiles": "one"}).plan.stat().st_size
    assert each > one > 0, "a profile for each size has kernels of its own"


def test_progress_is_told(build: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=building.__name__)
    build(save_network(tmp_path / "m.onnx"))
    shares = [int(line.split()[2]) for line in caplog.messages if "% built" in line]
    assert len(shares) >= 4
    assert shares == sorted(shares)
    assert "built by TensorRT in" in caplog.messages[-1]


@pytest.mark.parametrize("dtype", [TensorProto.UINT8, TensorProto.FLOAT16, TensorProto.FLOAT])
@pytest.mark.parametrize("batch", ["n", 2])
def test_every_type_of_input_is_built(
    build: Build, tmp_path: Path, dtype: int, batch: int | str
) -> None:
    file = save_network(tmp_path / "m.onnx", dtype=dtype, shape=(batch, *SHAPE))
    assert build(file).plan.stat().st_size > 0


def test_free_sides_become_those_of_the_model(build: Build, tmp_path: Path) -> None:
    file = save_network(tmp_path / "m.onnx", shape=("n", 3, "h", "w"))
    assert build(file).plan.stat().st_size > 0


def test_what_is_computed_in_is_what_the_network_says(build: Build, tmp_path: Path) -> None:
    """Half the bytes of weights are in the plan of a network in FP16: nothing is widened."""
    sizes = {}
    for kind, dtype in (("half", np.float16), ("float", np.float32)):
        nodes, outputs, weights = wide_layer(dtype)
        file = save(tmp_path / f"{kind}.onnx", nodes, outputs=outputs, weights=weights)
        sizes[kind] = build(file, sizes=(1,)).plan.stat().st_size
    assert 2**20 < sizes["float"] - sizes["half"] < 3 * 2**20


def wide_layer(dtype: type[np.floating[Any]]) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """Return a network of 2**20 weights, which computes in ``dtype``."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    rows = int(np.prod(SHAPE))
    one, other = (rng_values((a, b), dtype) for a, b in ((rows, 2**12), (2**12, 220)))
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], name="cast", to=kind),
        helper.make_node("Flatten", ["cast"], ["flat"], name="flat"),
        helper.make_node("MatMul", ["flat", "one"], ["hidden"], name="one"),
        helper.make_node("Relu", ["hidden"], ["positive"], name="relu"),
        helper.make_node("MatMul", ["positive", "other"], ["scores"], name="other"),
    ]
    outputs = [helper.make_tensor_value_info("scores", kind, ["n", 220])]
    return nodes, outputs, {"one": one, "other": other}


def rng_values(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def test_symmetric_int8_networks_of_optimize_are_built(build: Build, tmp_path: Path) -> None:
    from visionmesh.models.optimizing.int8 import Quantizer  # noqa: PLC0415 - slow to import

    file = save_network(tmp_path / "m.onnx")
    model = onnx.load(file)
    for index, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{index}"
    onnx.save(model, file)
    quantizer = Quantizer(network=file, ranges=ranges_of(file))
    int8 = quantizer.write(tmp_path / "int8.onnx", "s8s8", quantizer.layers)
    operators = {node.op_type for node in onnx.load(int8).graph.node}
    assert "QuantizeLinear" in operators
    assert build(int8).plan.stat().st_size > 0


def ranges_of(file: Path) -> Any:
    """Return what the network's tensors are between, as calibration finds it."""
    from onnxruntime.quantization import CalibrationMethod  # noqa: PLC0415 - slow to import
    from onnxruntime.quantization.calibrate import (  # noqa: PLC0415
        CalibrationDataReader,
        create_calibrator,
    )

    class Images(CalibrationDataReader):  # type: ignore[misc]  # there is no type information
        def __init__(self) -> None:
            self._left = [{"image": rng_values((1, *SHAPE), np.float32)}]

        def get_next(self) -> Any:
            return self._left.pop() if self._left else None

    augmented = str(file.with_name("augmented.onnx"))
    calibrator = create_calibrator(
        file, None, augmented_model_path=augmented, calibrate_method=CalibrationMethod.MinMax
    )
    calibrator.collect_data(Images())
    return calibrator.compute_data()


def test_an_operator_that_tensorrt_lacks_is_named(build: Build, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["image"], ["positive"], name="head/relu"),
        helper.make_node(
            "Frobnicate", ["positive"], ["scores"], name="head/frob", domain="org.nobody"
        ),
    ]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", *SHAPE])]
    file = save(tmp_path / "m.onnx", nodes, outputs=outputs)
    with pytest.raises(ConfigurationError, match=r"node 'head/frob' \(Frobnicate\): .*lugin not"):
        build(file)


def test_asymmetric_int8_is_refused_with_the_node(build: Build, tmp_path: Path) -> None:
    """Which is why a network for TensorRT is quantised by another scheme than for CPUs."""
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["q"], name="stem/q"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], name="stem/dq"),
        helper.make_node("Relu", ["d"], ["scores"], name="relu"),
    ]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", *SHAPE])]
    weights = {"scale": np.float32(0.1), "zero": np.int8(7)}
    arrays = {name: np.asarray(value) for name, value in weights.items()}
    file = save(tmp_path / "m.onnx", nodes, outputs=outputs, weights=arrays)
    with pytest.raises(ConfigurationError, match="stem/q"):
        build(file)


def test_a_file_that_is_no_network_is_refused(build: Build, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no network")
    with pytest.raises(ConfigurationError, match="TensorRT cannot read the network"):
        build(tmp_path / "m.onnx")


def test_what_the_builder_cannot_do_is_told_in_its_words(build: Build, tmp_path: Path) -> None:
    file = save_network(tmp_path / "m.onnx", shape=("n", 5, 8, 6))
    with pytest.raises(ConfigurationError, match="image"):
        build(file)  # the job says three channels


def test_a_device_that_it_does_not_build_for_is_refused(build: Build, tmp_path: Path) -> None:
    file = save_network(tmp_path / "m.onnx")
    with pytest.raises(ConfigurationError, match=r"does not build for SM19"):
        build(file, capability=(1, 9))


def test_timings_are_kept_and_spoiled_ones_made_again(build: Build, tmp_path: Path) -> None:
    timings, file = tmp_path / "timings", save_network(tmp_path / "m.onnx")
    build(file, timings=timings)
    first = timings.read_bytes()
    build(file, timings=timings)
    assert timings.read_bytes()
    timings.write_bytes(b"spoiled")
    build(file, timings=timings)
    assert len(timings.read_bytes()) >= len(first)


def test_too_small_a_workspace_is_told_in_the_builders_words(build: Build, tmp_path: Path) -> None:
    file = save_network(tmp_path / "m.onnx")
    options = {"tf32": False, "level": 1}
    assert build(file, options=options).plan.stat().st_size > 0
    with pytest.raises(ConfigurationError, match=r"its builder fails: .*workspace limit"):
        build(file, options={"workspace": 1 << 20} | options)


def test_where_there_is_no_gpu_a_plan_does_not_load(build: Build, tmp_path: Path) -> None:
    plan = build(save_network(tmp_path / "m.onnx")).plan
    with pytest.raises(GpuError, match=r"TensorRT cannot load the plan: .*C(UDA|uda)"):
        load_plan(trt, plan, sizes=(1, 2, 4))
    plan.write_bytes(b"no plan at all")
    with pytest.raises(GpuError, match="TensorRT cannot load the plan"):
        load_plan(trt, plan, sizes=(1, 2, 4))
