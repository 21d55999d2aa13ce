"""What strangers send is read whole, from its own folder, or refused with a reason."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.networks import save_network, weights
from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.importing.reading import read_onnx


def external(folder: Path, change: Callable[[TensorProto], None] = lambda tensor: None) -> Path:
    """Write a network with its weights in ``kernel.bin``, and what names them changed."""
    file = save_network(folder / "net" / "model.onnx", external=True)
    model = onnx.load(file, load_external_data=False)
    change(model.graph.initializer[0])
    file.write_bytes(model.SerializeToString())
    return file


def pointing_at(location: str) -> Callable[[TensorProto], None]:
    def change(tensor: TensorProto) -> None:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location

    return change


def test_weights_in_another_file_become_part_of_the_network(tmp_path: Path) -> None:
    model = read_onnx(external(tmp_path))
    (kernel,) = model.graph.initializer
    assert not kernel.external_data
    assert np.array_equal(onnx.numpy_helper.to_array(kernel).reshape(4, 3), weights(0))


@pytest.mark.parametrize(
    "location", ["../secret.bin", "/etc/passwd", "a/../../secret.bin", "link.bin", ""]
)
def test_weights_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    file = external(tmp_path, pointing_at(location))
    (tmp_path / "secret.bin").write_bytes(bytes(4096))
    (file.parent / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ConfigurationError, match="outside its own folder") as raised:
        read_onnx(file)
    assert raised.value.code is Code.MODEL_UNSAFE


def test_weights_behind_a_link_are_refused(tmp_path: Path) -> None:
    """Also one within the folder: where it leads to can change between a check and the reading."""
    file = external(tmp_path)
    kernel = file.parent / "kernel.bin"
    kernel.rename(file.parent / "real.bin")
    kernel.symlink_to("real.bin")
    with pytest.raises(ConfigurationError, match="put a copy of the weights beside") as raised:
        read_onnx(file)
    assert raised.value.code is Code.MODEL_UNSAFE


def test_weights_that_are_missing_or_cut_short_are_named(tmp_path: Path) -> None:
    file = external(tmp_path)
    kernel = file.parent / "kernel.bin"
    kernel.write_bytes(kernel.read_bytes()[:-1])
    with pytest.raises(ConfigurationError, match=r"kernel.bin is cut short: the weights 'kernel'"):
        read_onnx(file)
    kernel.unlink()
    with pytest.raises(ConfigurationError, match=r"'kernel.bin', which is not there"):
        read_onnx(file)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, share: float) -> None:
    file = save_network(tmp_path / "model.onnx")
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ConfigurationError, match="cut short; export or copy it again") as raised:
        read_onnx(file)
    assert raised.value.code is Code.MODEL_INVALID


@pytest.mark.parametrize("beside", [False, True])
def test_a_network_of_5_gb_is_refused_without_reading_it(tmp_path: Path, beside: bool) -> None:
    file = external(tmp_path)
    large = file.parent / "kernel.bin" if beside else file
    with large.open("r+b") as sink:
        sink.truncate(5_000_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConfigurationError, match=r"has 5.0 GB with its weights"):
        read_onnx(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_operators_that_nobody_knows_are_named(tmp_path: Path) -> None:
    file = save_network(tmp_path / "model.onnx")
    model = onnx.load(file)
    model.graph.node.append(helper.make_node("Fold", ["scores"], ["x"]))
    model.graph.node.append(helper.make_node("Spin", ["x"], ["y"], domain="org.example"))
    model.opset_import.append(helper.make_opsetid("org.example", 1))
    file.write_bytes(model.SerializeToString())
    with pytest.raises(
        ConfigurationError, match=r"no engine knows: Fold \(ai.onnx\), Spin \(org.example\);"
    ):
        read_onnx(file)


def test_an_opset_of_the_future_is_named(tmp_path: Path) -> None:
    file = save_network(tmp_path / "model.onnx")
    model = onnx.load(file)
    model.opset_import[0].version = 99
    file.write_bytes(model.SerializeToString())
    with pytest.raises(ConfigurationError, match="operators of opset 99, and those up to"):
        read_onnx(file)


def test_weights_that_name_the_same_bytes_count_each(tmp_path: Path) -> None:
    """Else a small file could ask for any amount of memory."""
    file = external(tmp_path)
    with (file.parent / "kernel.bin").open("r+b") as sink:
        sink.truncate(1_500_000_000)
    model = onnx.load(file, load_external_data=False)
    tensor = model.graph.initializer[0]
    del tensor.external_data[:]
    tensor.external_data.add(key="location", value="kernel.bin")
    model.graph.initializer.add().CopyFrom(tensor)
    file.write_bytes(model.SerializeToString())
    with pytest.raises(ConfigurationError, match=r"has 3.0 GB with its weights"):
        read_onnx(file)
