"""`optimize` and `verify` on model folders: what they print, keep, and exit with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.chains import fragile, mixing, save_chain, save_colours
from tests.visionmesh.cli.conftest import finish


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_colours(tmp_path_factory.mktemp("colours"), 30)


@pytest.fixture
def sturdy(tmp_path: Path) -> Path:
    """A model that fewer bits do no harm."""
    return save_chain(tmp_path / "sturdy", [mixing(np.random.default_rng(4), 3)])


async def test_what_was_made_is_told_and_can_be_verified(
    tmp_path: Path, sturdy: Path, images: Path
) -> None:
    made = await finish(tmp_path, "optimize", sturdy, "--precision", "fp16", "--calibrate", images)
    verified = await finish(tmp_path, "verify", sturdy, "--images", images)

    assert made.status == 0, made.err
    header, original, smaller, counts, few, promoted, runs, onward = made.out.splitlines()
    assert header.split()[:3] == ["FILE", "PRECISION", "MB"]
    assert original.split()[:2] == ["model.onnx", "fp32"]
    assert smaller.split()[:2] == ["model.fp16.onnx", "fp16"]
    assert counts.startswith("10 images calibrated, 20 others judged;")
    assert few.startswith("With 20 images 1 % is less than one")
    assert promoted == "Promoted in sturdy, version 1: model.fp16.onnx"
    assert runs.endswith("onnxruntime fp32, 1 thread (it was not tuned)"), "CPUs take no FP16"
    assert "--tune" in onward
    assert verified.status == 0, verified.err
    assert "FAILED" not in verified.out
    assert "model.fp16.onnx  answers" in verified.out


async def test_the_report_is_json_on_request(tmp_path: Path, sturdy: Path, images: Path) -> None:
    made = await finish(
        tmp_path, "optimize", sturdy, "--precision", "fp16", "--calibrate", images, "--json"
    )
    verified = await finish(tmp_path, "verify", sturdy, "--json")

    (report,) = made.documents
    assert report["promoted"] == ["model.fp16.onnx"]
    assert report["made"][0]["trial"]["agreement"]["answers"] == 1
    (found,) = verified.documents
    assert found["passed"]
    assert [network["file"] for network in found["networks"]] == ["model.onnx", "model.fp16.onnx"]


async def test_what_answers_differently_is_refused(tmp_path: Path, images: Path) -> None:
    model = save_chain(tmp_path / "fragile", fragile(np.random.default_rng(2)))

    refused = await finish(
        *(tmp_path, "optimize", model, "--calibrate", images, "--precision", "int8"),
        *("--tune", "--seconds", "1"),
    )
    forced = await finish(tmp_path, "optimize", model, "--calibrate", images, "--force")
    verified = await finish(tmp_path, "verify", model, "--images", images)

    assert refused.status == 1
    assert "model.int8.onnx" in refused.err
    assert refused.out.rstrip().endswith("once it is pushed."), "the others are tuned all the same"
    assert refused.err.rstrip().endswith("or insist with --force. [agreement_lost]")
    assert forced.status == 0
    assert verified.status == 1
    assert "wrong: model.int8.onnx, model.int8-s8.onnx [verification_failed]" in verified.err


async def test_a_network_without_numbers_fails(tmp_path: Path, sturdy: Path) -> None:
    file = sturdy / "1" / "model.onnx"
    model = onnx.load(file)
    model.graph.node[-1].output[0] = "before"
    model.graph.node.append(helper.make_node("Neg", ["before"], ["minus"]))
    model.graph.node.append(helper.make_node("Abs", ["before"], ["plus"]))
    model.graph.node.append(helper.make_node("Sub", ["minus", "plus"], ["below"]))
    model.graph.node.append(helper.make_node("Log", ["below"], ["scores"]))
    onnx.save(model, file)

    finished = await finish(tmp_path, "verify", sturdy)

    assert finished.status == 1
    assert "NaN or infinity in scores" in finished.out
    assert "[verification_failed]" in finished.err


async def test_images_that_are_not_there_are_a_wrong_command(tmp_path: Path, sturdy: Path) -> None:
    (tmp_path / "empty").mkdir()
    nowhere = await finish(tmp_path, "optimize", sturdy, "--calibrate", tmp_path / "nowhere")
    nothing = await finish(tmp_path, "optimize", sturdy, "--calibrate", tmp_path / "empty")
    assert nowhere.status == nothing.status == 2
    assert "[images_missing]" in nothing.err
