from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

from tests.networks import describe, save_network
from visionmesh.contracts import TensorMeta
from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.check import inspect
from visionmesh.models.spec import ModelSpec


def spec_of(*, labels: tuple[str, ...] = (), decoder: str = "softmax", **more: object) -> ModelSpec:
    return describe(input=more, output={"decoder": decoder}, labels=labels)


def test_a_free_batch_is_told_from_a_fixed_one(tmp_path: Path) -> None:
    free = inspect(save_network(tmp_path / "free.onnx"), spec_of())
    fixed = inspect(save_network(tmp_path / "fixed.onnx", shape=(5, 3, 8, 6)), spec_of())

    assert (free.batch, fixed.batch) == (None, 5)
    assert free.inputs == (TensorMeta(name="image", dtype="float32", shape=(-1, 3, 8, 6)),)
    assert fixed.outputs == (TensorMeta(name="scores", dtype="float32", shape=(5, 4)),)
    assert fixed.output_images == (TensorMeta(name="scores", dtype="float32", shape=(4,)),)


def test_height_and_width_may_be_free(tmp_path: Path) -> None:
    signature = inspect(save_network(tmp_path / "m.onnx", shape=("n", 3, "h", "w")), spec_of())
    assert signature.inputs[0].shape == (-1, 3, -1, -1)


def test_pixels_may_be_bytes(tmp_path: Path) -> None:
    file = save_network(tmp_path / "m.onnx", dtype=TensorProto.UINT8)
    assert inspect(file, spec_of(dtype="uint8")).inputs[0].dtype == "uint8"


@pytest.mark.parametrize(
    ("shape", "changes", "message"),
    [
        (("n", 3, 8), {}, "has 3 dimensions; it must have 4"),
        (("n", 1, 8, 6), {}, r"is \(\?, 1, 8, 6\), .*C = 3 in NCHW; correct input.color"),
        (("n", 3, 9, 6), {}, "H = 8 in NCHW; correct input.height"),
        (("n", 3, 8, 7), {}, "W = 6 in NCHW; correct input.width"),
        (("n", 3, 8, 6), {"layout": "NHWC"}, "C = 3 in NHWC"),
        (("n", 3, 8, 6), {"dtype": "uint8"}, "takes float32, but input.dtype is uint8"),
        (("n", 3, 8, 6), {"labels": ("ash",)}, "1 labels, but the network tells 4 classes apart"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(
    tmp_path: Path, shape: tuple[int | str, ...], changes: dict[str, object], message: str
) -> None:
    file = save_network(tmp_path / "1" / "model.onnx", shape=shape)
    with pytest.raises(ConfigurationError, match=message) as raised:
        inspect(file, spec_of(**changes))  # type: ignore[arg-type]  # one table for both kinds
    assert raised.value.code is Code.MODEL_INVALID


@pytest.mark.parametrize("kept", [0, 1, 60, 200])
def test_a_broken_file_is_refused(tmp_path: Path, kept: int) -> None:
    file = save_network(tmp_path / "model.onnx")
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ConfigurationError, match="not a network that ONNX Runtime can load"):
        inspect(file, spec_of())


def test_weights_in_another_file_are_refused(tmp_path: Path) -> None:
    file = save_network(tmp_path / "model.onnx", external=True)
    assert (tmp_path / "kernel.bin").is_file()
    with pytest.raises(ConfigurationError, match="keeps weights in other files"):
        inspect(file, spec_of())


def test_another_file_than_an_image_network_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ConfigurationError, match="export it again"):
        inspect(file, spec_of())


def test_what_the_runtime_says_is_told_without_its_sources(tmp_path: Path) -> None:
    file = save_network(tmp_path / "model.onnx")
    model = onnx.load(file)
    model.opset_import[0].version = 99
    onnx.save(model, file)
    with pytest.raises(ConfigurationError, match=r": Opset 99 is newer than opset \d+, the last"):
        inspect(file, spec_of())
    model.opset_import[0].version = 17
    model.graph.node[0].op_type = "Fold"
    onnx.save(model, file)
    with pytest.raises(ConfigurationError, match="export it again: No Op registered for Fold"):
        inspect(file, spec_of())
