"""The networks of the benchmarks have the shapes that they are named after, and run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch", reason="the networks are made by PyTorch")

from bench.gpu import networks  # noqa: E402 - only where PyTorch is
from bench.gpu.machine import Ceilings  # noqa: E402
from bench.gpu.pictures import picture  # noqa: E402


@pytest.mark.parametrize("name", ["resnet50", "yolov8s", "vit-b16"])
def test_a_shape_is_as_large_and_as_expensive_as_published(name: str) -> None:
    shape = networks.SHAPES[name]
    found = networks.cost(name, shape.size)
    assert found.parameters / 1e6 == pytest.approx(shape.millions, rel=5e-3)
    assert found.operations / 2e9 == pytest.approx(shape.gmacs, rel=5e-3)


def test_the_floor_is_the_larger_of_computing_and_moving() -> None:
    cost = networks.Cost(parameters=500, operations=100, input_bytes=30, output_bytes=20)
    assert cost.floor(4, Ceilings(operations_per_s=100, bytes_per_s=1e9)) == 4
    assert cost.floor(4, Ceilings(operations_per_s=1e9, bytes_per_s=100)) == (1000 + 4 * 50) / 100


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_onnx_and_program_say_what_the_network_says(tmp_path: Path) -> None:
    """For any batch."""
    network = networks.build("tiny", 32)
    networks.save_onnx(network, 32, tmp_path / "model.onnx")
    networks.save_program(network, 32, tmp_path / "model.pt2")
    images = np.random.default_rng(0).random((3, 3, 32, 32)).astype(np.float16)
    session = onnxruntime.InferenceSession(
        tmp_path / "model.onnx", providers=["CPUExecutionProvider"]
    )
    (from_onnx,) = session.run(None, {"images": images})
    program = torch.export.load(tmp_path / "model.pt2").module()
    from_program = program(torch.from_numpy(images))["output"].numpy()
    expected = network.float()(torch.from_numpy(images).float()).numpy()
    assert expected.shape == (3, 1000)
    for found in (from_onnx, from_program):
        assert np.linalg.norm(found - expected) < 0.01 * np.linalg.norm(expected)


def test_the_detector_finds_something_on_pictures_and_not_everything() -> None:
    network = networks.build("yolov8s", 64).float()
    made = [picture(number, width=64, height=64) for number in range(8)]
    images = torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2) / 255
    output = network(images).numpy()
    assert output.shape == (8, 84, 64 + 16 + 4)
    assert 0 < (output[:, 4:] > 0.25).mean() < 0.5
    assert (output[:, 2:4] > 0).all()
