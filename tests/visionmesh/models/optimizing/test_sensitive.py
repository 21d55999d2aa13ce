"""Layers that lose too much in fewer bits: found by measuring, kept in float, or told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.chains import Kernels, fragile, mixing, save_chain, save_colours
from visionmesh.models.folder import load_folder
from visionmesh.models.optimizing import optimize
from visionmesh.models.variants import VARIANTS_FILE, Precision, read_variants


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_colours(tmp_path_factory.mktemp("colours"))


def with_outlier(random: np.random.Generator) -> Kernels:
    """Return a chain in whose middle one channel is 2,000 times as large as what matters.

    The next convolution ignores it, but the scale of 8 bits has to cover it.
    """
    calm = [mixing(random, 3), mixing(random), mixing(random)]
    loud, deaf = mixing(random), mixing(random)
    loud[0] *= 2000
    deaf[:, 0] = 0
    return [*calm, loud, deaf, mixing(random), mixing(random), mixing(random)]


def test_a_layer_that_8_bits_destroy_stays_in_float(tmp_path: Path, images: Path) -> None:
    folder = load_folder(save_chain(tmp_path / "chain", with_outlier(np.random.default_rng(2))))
    told: list[str] = []

    report = optimize(folder, precision=Precision.INT8, images=images, said=told.append)

    throughout = [line for line in told if "with 0 layers" in line]
    assert len(throughout) == 2
    for line, one in zip(throughout, report.made, strict=True):
        assert float(line.split()[1].rstrip("%")) < 80
        assert one.trial.agreement.answers > 0.98
        names = {name.partition(":")[2] for name in one.in_float}
        assert names & {"conv3", "conv4"}
        assert len(names) <= 4


def test_what_cannot_be_kept_right_is_not_promoted(tmp_path: Path, images: Path) -> None:
    path = save_chain(tmp_path / "chain", fragile(np.random.default_rng(2)))
    version = path / "1"

    refused = optimize(load_folder(path), precision=Precision.INT8, images=images)
    files = {file.name for file in version.iterdir()}
    forced = optimize(load_folder(path), precision=Precision.INT8, images=images, force=True)

    assert all(one.lost > 0.01 for one in refused.made)
    assert refused.promoted == ()
    assert files == {"model.onnx"}
    assert forced.promoted == ("model.int8.onnx", "model.int8-s8.onnx")
    assert {file.name for file in version.iterdir()} == {
        *files, *forced.promoted, VARIANTS_FILE,
    }  # fmt: skip
    variants = read_variants(version)
    assert variants is not None
    assert [one.right for one in variants.artifacts] == [False, False]
    assert forced.runs.startswith("onnxruntime fp32"), "no worker runs what is only forced"


def growing(random: np.random.Generator) -> Kernels:
    """Return a chain whose values leave the range of FP16 and come back."""
    return [mixing(random, 3), mixing(random) * 3e5, mixing(random) * 3e-5, mixing(random)]


@pytest.mark.parametrize(
    ("kernels", "in_float"), [(growing, {"conv1", "conv2"}), (with_outlier, set())]
)
def test_what_overflows_in_fp16_stays_in_float32(
    tmp_path: Path,
    images: Path,
    kernels: Callable[[np.random.Generator], Kernels],
    in_float: set[str],
) -> None:
    folder = save_chain(tmp_path / "chain", kernels(np.random.default_rng(3)))

    report = optimize(load_folder(folder), precision=Precision.FP16, images=images)

    (made,) = report.made
    assert {name.partition(":")[2] for name in made.in_float} == in_float
    assert made.trial.agreement.broken == 0
    assert made.trial.agreement.answers >= 0.99
    assert report.promoted == ("model.fp16.onnx",)
    variants = read_variants(folder / "1")
    assert variants is not None
    assert [one.scheme for one in variants.artifacts] == ["fp16"]
    model = onnx.load(folder / "1" / "model.fp16.onnx")
    for value in (model.graph.input[0], model.graph.output[0]):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    kinds = {one.name: one.data_type for one in model.graph.initializer if one.name[0] == "w"}
    wide = {f"w{name[-1]}" for name in in_float}
    assert {name for name, kind in kinds.items() if kind == TensorProto.FLOAT} == wide
