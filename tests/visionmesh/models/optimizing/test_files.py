"""What lies in the files, and what networks cannot be optimised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnxruntime import InferenceSession
from onnxruntime.quantization.calibrate import TensorsData

from tests.networks import save_network
from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.optimizing.calibration import Method, calibrate, extremes
from visionmesh.models.optimizing.int8 import OPERATORS, Quantizer, Scheme
from visionmesh.models.optimizing.network import prepare


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two convolutions with biases, and behind them what is no layer any more."""
    random = np.random.default_rng(0)
    shapes = {"w0": (8, 3, 3, 3), "b0": (8,), "w1": (5, 8, 3, 3), "b1": (5,)}
    constants = [
        numpy_helper.from_array(random.normal(0, 0.2, shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["image", "w0", "b0"], ["c0"]),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1", "b1"], ["c1"]),
        helper.make_node("Sigmoid", ["c1"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 5, 4, 4])],
        constants,
    )
    folder = tmp_path_factory.mktemp("network")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    return prepare(folder / "model.onnx", folder / "prepared.onnx")


def batches(count: int = 6) -> list[NDArray[np.float32]]:
    random = np.random.default_rng(1)
    return [random.random((1, 3, 8, 8), np.float32) for _ in range(count)]


@pytest.fixture(scope="module")
def ranges(network: Path) -> TensorsData:
    return calibrate(network, batches(), OPERATORS, Method.PERCENTILE)


@pytest.mark.parametrize("scheme", ["u8s8", "s8s8"])
def test_the_file_computes_what_onnx_defines(
    network: Path, ranges: TensorsData, tmp_path: Path, scheme: Scheme
) -> None:
    quantizer = Quantizer(network=network, ranges=ranges)
    file = quantizer.write(tmp_path / "int8.onnx", scheme, quantizer.layers)
    (image,) = batches(1)

    model = onnx.load(file)
    model.opset_import[0].version = 19  # the same for these operators, and the first that is known
    (defined,) = ReferenceEvaluator(model).run(None, {"image": image})
    (run,) = InferenceSession(file).run(None, {"image": image})
    (exact,) = InferenceSession(network).run(None, {"image": image})

    # Where a value lies between two steps, the last digit of a sum decides.
    assert np.abs(defined - run).max() < 0.02
    assert np.abs(defined - run).mean() < 1e-3
    assert 0 < np.abs(exact - run).mean() < 0.01


def constants(file: Path) -> dict[str, NDArray[Any]]:
    return {one.name: numpy_helper.to_array(one) for one in onnx.load(file).graph.initializer}


def test_for_cpus_activations_are_unsigned_and_biases_integers(
    network: Path, ranges: TensorsData, tmp_path: Path
) -> None:
    quantizer = Quantizer(network=network, ranges=ranges)
    file = quantizer.write(tmp_path / "int8.onnx", "u8s8", quantizer.layers)
    kinds = [array.dtype for array in constants(file).values()]
    points = {n: a for n, a in constants(file).items() if n.endswith("zero_point")}
    assert {str(array.dtype) for array in points.values() if not array.shape} == {"uint8"}
    assert np.dtype(np.int32) in kinds


def test_for_tensorrt_all_is_symmetric_and_biases_are_floats(
    network: Path, ranges: TensorsData, tmp_path: Path
) -> None:
    quantizer = Quantizer(network=network, ranges=ranges)
    file = quantizer.write(tmp_path / "int8.onnx", "s8s8", quantizer.layers)
    arrays = constants(file)
    points = [array for name, array in arrays.items() if name.endswith("zero_point")]
    assert points
    assert all(array.dtype == np.int8 and not array.any() for array in points)
    assert all(array.dtype != np.int32 for array in arrays.values())
    assert all(arrays[name].dtype == np.float32 for name in ("b0", "b1"))


@pytest.mark.parametrize("scheme", ["u8s8", "s8s8"])
def test_weights_have_a_scale_for_each_channel(
    network: Path, ranges: TensorsData, tmp_path: Path, scheme: Scheme
) -> None:
    quantizer = Quantizer(network=network, ranges=ranges)
    arrays = constants(quantizer.write(tmp_path / "int8.onnx", scheme, quantizer.layers))
    assert arrays["w0_quantized"].dtype == arrays["w1_quantized"].dtype == np.int8
    assert (arrays["w0_scale"].shape, arrays["w1_scale"].shape) == ((8,), (5,))


def test_nothing_is_quantised_behind_the_last_weights(network: Path, ranges: TensorsData) -> None:
    layers = Quantizer(network=network, ranges=ranges).layers
    operators = [[name.partition(":")[2] for name in layer] for layer in layers]
    assert [len(layer) for layer in operators] == [2, 1]
    assert not any("Sigmoid" in name for layer in operators for name in layer)


def test_a_layer_can_stay_in_float(network: Path, ranges: TensorsData, tmp_path: Path) -> None:
    quantizer = Quantizer(network=network, ranges=ranges)
    arrays = constants(quantizer.write(tmp_path / "int8.onnx", "u8s8", quantizer.layers[1:]))
    assert arrays["w0"].dtype == np.float32
    assert arrays["w1_quantized"].dtype == np.int8


def test_entropy_finds_ranges_too(network: Path, ranges: TensorsData) -> None:
    low, high = calibrate(network, batches(), OPERATORS, Method.ENTROPY)["image"].range_value
    assert -0.1 <= low <= 0.1
    assert 0.5 < high <= 1.0
    low, high = ranges["image"].range_value
    assert low == pytest.approx(0, abs=0.01)
    assert high == pytest.approx(1, abs=0.01)


def test_extremes_are_those_of_all_images(network: Path) -> None:
    images = batches()
    images[4][0, 0, 0, 0] = -7.5
    assert extremes(network, images)["image"] == 7.5


def test_the_library_does_not_talk_into_the_answer(
    network: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calibrate(network, batches(1), OPERATORS, Method.PERCENTILE)
    assert capsys.readouterr().out == ""


def test_old_networks_are_brought_up_to_date(tmp_path: Path) -> None:
    file = save_network(tmp_path / "model.onnx")
    model = onnx.load(file)
    model.opset_import[0].version = 11  # whose operators of these names are the same
    onnx.save(model, file)
    ready = onnx.load(prepare(file, tmp_path / "prepared.onnx"))
    assert ready.opset_import[0].version == 17
    assert len({node.name for node in ready.graph.node}) == len(ready.graph.node)


def test_what_cannot_be_optimised_says_why(
    network: Path, ranges: TensorsData, tmp_path: Path
) -> None:
    quantizer = Quantizer(network=network, ranges=ranges)
    quantised = quantizer.write(tmp_path / "int8.onnx", "u8s8", quantizer.layers)
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(network.read_bytes()[:200])
    model = onnx.load(network)
    for node in model.graph.node:
        node.op_type = "Relu"
    onnx.save(model, tmp_path / "relus.onnx")

    for file, why in (
        (quantised, "quantised already"),
        (cut, "cannot be read"),
        (tmp_path / "relus.onnx", "no convolution or product of matrices"),
    ):
        with pytest.raises(ConfigurationError, match=why) as error:
            prepare(file, tmp_path / "prepared.onnx")
        assert error.value.code == Code.MODEL_INVALID
