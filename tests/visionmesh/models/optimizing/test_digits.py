"""The whole way with a real network and real images: smaller, as good, and told truly."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.digits import save_digits, save_model
from visionmesh.models.folder import load_folder
from visionmesh.models.optimizing import Report, optimize
from visionmesh.models.variants import Precision, read_variants


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "digits")


@pytest.fixture(scope="module")
def int8(folder: Path, images: Path) -> Report:
    return optimize(load_folder(folder), precision=Precision.INT8, images=images)


def test_int8_of_a_residual_network_is_a_quarter_and_as_good(int8: Report) -> None:
    assert int8.held_out >= 350
    assert int8.original.accuracy is not None
    assert int8.original.accuracy > 0.95
    assert [one.scheme for one in int8.made] == ["u8s8", "s8s8"]
    for one in int8.made:
        assert one.smaller >= 3.5
        assert one.trial.accuracy is not None
        assert int8.original.accuracy - one.trial.accuracy <= 0.01
        assert one.lost == max(0.0, int8.original.accuracy - one.trial.accuracy)
        assert one.trial.agreement.answers >= 0.99
        assert one.trial.agreement.images == int8.held_out


def test_what_is_right_is_promoted(int8: Report, folder: Path) -> None:
    assert int8.promoted == ("model.int8.onnx", "model.int8-s8.onnx")
    variants = read_variants(folder / "1")
    assert variants is not None
    for artifact in variants.artifacts:
        content = (folder / "1" / artifact.file).read_bytes()
        assert artifact.sha256 == hashlib.sha256(content).hexdigest()
        assert artifact.size_bytes == len(content)
    made = variants.for_cpus()
    assert made is not None
    assert (made.file, made.faster) == ("model.int8.onnx", int8.made[0].faster)
    assert made.right
    precision = "int8" if int8.made[0].faster >= 1.1 else "fp32"
    assert int8.runs.startswith(f"onnxruntime {precision}, 1 thread (")
    assert variants.of == hashlib.sha256((folder / "1/model.onnx").read_bytes()).hexdigest()


def test_fp16_is_half_as_large_and_joins_what_is_there(
    int8: Report, folder: Path, images: Path
) -> None:
    report = optimize(load_folder(folder), precision=Precision.FP16, images=images, most=60)

    (fp16,) = report.made
    assert 1.9 < fp16.smaller < 2.1
    assert fp16.trial.agreement.answers == 1
    assert fp16.trial.agreement.max_error < 0.01 * fp16.trial.agreement.largest
    assert (report.calibration, report.held_out) == (20, 40)
    variants = read_variants(folder / "1")
    assert variants is not None
    assert {one.file for one in variants.artifacts} == {one.file for one in int8.made} | {fp16.file}
