"""A complete file says of pixels what the mesh says of them, with ONNX Runtime alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

from tests.completed import images, png, run
from tests.networks import save_folder
from tests.visionmesh.models.completed_models import (
    BOTH,
    DETECTORS,
    LABELS,
    assert_same,
    checks,
    folder,
    pairs,
)
from tests.visionmesh.models.importing.heads import SIDE, boxes
from visionmesh.cli.app import build
from visionmesh.contracts import Params
from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.completing import COMPLETE_FILE, Part, complete
from visionmesh.models.folder import load_folder
from visionmesh.models.verifying import verify
from visionmesh.workbench import Workbench

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "agnostic": {"nms": "agnostic"},
    "none": {"nms": "none", "max_detections": 9},
    "few": {"max_detections": 5},
    "strict with bees": {"class_confidence": {"bee": 0.8}, "iou": 0.2},
    "sure of nothing": {"confidence": 1.0},
}


@pytest.mark.parametrize(
    ("detector", "setting"),
    [
        (detector, setting)
        for detector in DETECTORS
        for setting in SETTINGS
        # What chose its boxes itself refuses to have them suppressed.
        if (detector.split()[0], setting) != ("detr", "agnostic")
    ],
)
def test_boxes_are_those_of_the_mesh_in_any_batch(
    tmp_path: Path, detector: str, setting: str
) -> None:
    outputs, parameters = DETECTORS[detector]
    settings = SETTINGS[setting]
    model = folder(tmp_path, outputs, detector.split(maxsplit=1)[0], **parameters, **settings)
    file = complete(model, BOTH).file
    bench = Workbench(model.spec)
    engine = bench.open(model.versions[1])
    for given in (images(1), images(3)):
        found = run(file, given)
        assert found["batch"].tolist() == sorted(found["batch"])
        for number, image in enumerate(given):
            sample = bench.sample(png(image))
            answers = engine.run([sample.pixels])
            detections = bench.read(answers, 0, sample, Params()).detections or ()
            assert (len(detections) > 0) == (settings.get("confidence") != 1.0)
            assert_same(detections, found, number)


@pytest.mark.parametrize("detector", DETECTORS)
def test_another_runtime_finds_the_same_boxes_in_the_same_order(
    tmp_path: Path, detector: str
) -> None:
    outputs, parameters = DETECTORS[detector]
    name = detector.split(maxsplit=1)[0]
    model = folder(tmp_path, outputs, name, max_detections=5, **parameters)
    file, given = complete(model, BOTH).file, images(3)
    compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled({"image": given}).to_dict()
    theirs = {output.get_any_name(): values for output, values in found.items()}
    ours = run(file, given)
    assert len(ours["batch"]) == 15
    for key, values in ours.items():
        np.testing.assert_allclose(theirs[key], values, atol=1e-3)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
@pytest.mark.parametrize("shape", [(3,), (3, 1, 1)])
def test_scores_are_those_of_the_mesh(
    tmp_path: Path, activation: str, shape: tuple[int, ...]
) -> None:
    values = np.array([0.2, 0.1, 0.6], np.float32).reshape(shape)
    model = folder(tmp_path, values, "softmax", task="classification", activation=activation)
    given = images(3)
    found = run(complete(model, BOTH).file, given)
    bench = Workbench(model.spec)
    engine = bench.open(model.versions[1])
    for image, scores in zip(given, found["scores"], strict=True):
        sample = bench.sample(png(image))
        classes = bench.read(engine.run([sample.pixels]), 0, sample, Params()).classes or ()
        wanted = {one.label: one.score for one in classes}
        assert dict(zip(LABELS, scores.tolist(), strict=True)) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("detector", DETECTORS)
def test_verify_finds_a_complete_file_of_each_decoder_equal(tmp_path: Path, detector: str) -> None:
    outputs, parameters = DETECTORS[detector]
    model = folder(tmp_path, outputs, detector.split(maxsplit=1)[0], **parameters)
    complete(model, (*BOTH, Part.RESIZE))
    assert checks(model) == [("pixels", True), ("answers", True)]


def test_outputs_that_nothing_tells_apart_must_be_named(tmp_path: Path) -> None:
    outputs = {"first": boxes(4, unit=True), "second": boxes(4, unit=True)}
    four = {"labels": ["ant", "bee", "cat", "dog"]}
    with pytest.raises(ConfigurationError, match=r"let output\.boxes name the one with"):
        complete(folder(tmp_path / "unnamed", outputs, "ssd", spec=four), BOTH)
    named: dict[str, Any] = {"boxes": "second", "scores": "first"}
    model = folder(tmp_path / "named", outputs, "ssd", spec=four, activation="sigmoid", **named)
    complete(model, BOTH)
    assert checks(model) == [("answers", True)]


def loosen(file: Path, outputs: dict[str, tuple[int, ...]], name: str, *, axis: int) -> None:
    """Let one of the ``outputs``, whose shapes are those of an image, have any size on ``axis``."""
    network = onnx.load(file)
    size = outputs[name][axis - 1]
    all_of_them = helper.make_tensor("kept", TensorProto.BOOL, [size], [True] * size)
    network.graph.initializer.append(all_of_them)
    loose = f"some_{name}"
    network.graph.node.append(helper.make_node("Compress", [name, "kept"], [loose], axis=axis))
    del network.graph.output[:]
    for each, sizes in outputs.items():
        shape: list[int | str] = ["n", *sizes]
        if each == name:
            shape[axis] = "any"
        told = loose if each == name else each
        network.graph.output.append(helper.make_tensor_value_info(told, TensorProto.FLOAT, shape))
    onnx.save(network, file)


def test_scores_that_may_have_any_number_of_classes_are_refused(tmp_path: Path) -> None:
    model = folder(tmp_path, pairs(4, 3), "ssd")
    loosen(model.versions[1], {"boxes": (4, 4), "scores": (4, 3)}, "scores", axis=2)
    with pytest.raises(ConfigurationError, match="how many classes some_scores has"):
        complete(model, BOTH)


def test_boxes_may_be_of_any_number_beside_scores_of_a_fixed_one(tmp_path: Path) -> None:
    model = folder(tmp_path, pairs(120, 3), "ssd")
    loosen(model.versions[1], {"boxes": (120, 4), "scores": (120, 3)}, "boxes", axis=1)
    complete(model, BOTH)
    assert checks(model) == [("answers", True)]


# Four scores a box look like boxes: no one counts classes before the decoder sees them.
@pytest.mark.parametrize(
    ("decoder", "labels", "parameters", "told"),
    [
        ("ssd", LABELS, {"background": "none"}, "ssd wants 3 classes, and sees 4"),
        ("ssd", LABELS[:2], {}, "ssd wants 2 classes, and sees 4"),
        (
            "detr",
            LABELS,
            {"activation": "sigmoid"},
            "detr with sigmoid wants 3 classes, and sees 4",
        ),
        ("detr", LABELS[:2], {}, "detr with softmax wants 2 classes and no-object, and sees 4"),
    ],
)
def test_classes_that_the_decoder_refuses_are_refused(
    tmp_path: Path, decoder: str, labels: list[str], parameters: dict[str, Any], told: str
) -> None:
    model = folder(tmp_path, pairs(60, 4), decoder, spec={"labels": labels}, **parameters)
    with pytest.raises(ConfigurationError, match=told) as raised:
        complete(model, BOTH)
    assert raised.value.code is Code.MODEL_INVALID
    assert not (tmp_path / "1" / COMPLETE_FILE).exists()


def test_a_fixed_batch_stays_fixed(tmp_path: Path) -> None:
    model = folder(tmp_path, DETECTORS["yolox"][0], "yolox", batch=2)
    assert complete(model, BOTH).inputs[0].shape == (2, SIDE, SIDE, 3)
    assert checks(model, count=3) == [("answers", True)]


@pytest.mark.parametrize("embed", [BOTH, BOTH[:1], BOTH[1:]])
def test_values_may_be_called_as_the_file_calls_its_own(
    tmp_path: Path, embed: tuple[Part, ...]
) -> None:
    model = load_folder(save_folder(tmp_path))
    complete(model, embed)
    assert checks(model) == [("answers", True)]


def test_names_are_changed_in_inner_graphs_too(tmp_path: Path) -> None:
    model = load_folder(save_folder(tmp_path))
    network = onnx.load(model.versions[1])
    inner = helper.make_graph(
        [helper.make_node("Add", ["scores", "scores"], ["twice"])],
        "inner",
        [],
        [helper.make_tensor_value_info("twice", TensorProto.FLOAT, None)],
    )
    network.graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
    network.graph.node.append(
        helper.make_node("If", ["yes"], ["answer"], then_branch=inner, else_branch=inner)
    )
    network.graph.output[0].name = "answer"
    onnx.save(network, model.versions[1])
    complete(model, BOTH)
    assert checks(model) == [("answers", True)]


@pytest.mark.parametrize(
    ("embed", "decoder", "changes", "told"),
    [
        ((), "yolov8", {}, "name some of preprocess, resize, postprocess"),
        ((Part.RESIZE,), "yolov8", {}, "embed that, too"),
        (BOTH, "yolov8", {"nms": "soft"}, "has no soft-NMS"),
        (BOTH, "yolov8", {"tensor": "other"}, "let output.tensor name the one to decode"),
        (BOTH, "end2end", {}, "leave postprocess out"),
        (BOTH, "yolov8", {"floor": 3}, "parameter floor"),
    ],
)
def test_what_cannot_be_embedded_is_told(
    tmp_path: Path, embed: tuple[Part, ...], decoder: str, changes: dict[str, Any], told: str
) -> None:
    model = folder(tmp_path, DETECTORS["yolov8"][0], decoder, **changes)
    with pytest.raises(ConfigurationError, match=told) as raised:
        complete(model, embed)
    assert raised.value.code is Code.MODEL_INVALID
    assert not (tmp_path / "1" / COMPLETE_FILE).exists()


def test_verify_compares_the_file_if_it_is_there(tmp_path: Path) -> None:
    model = folder(tmp_path, DETECTORS["yolov8"][0], "yolov8", confidence=0.6)
    assert checks(model) == []
    file = complete(model, BOTH).file
    compared = verify(model).networks[1]
    assert (compared.file, compared.passed) == (COMPLETE_FILE, True)
    whole = onnx.load(file)
    for node in whole.graph.node:
        if node.op_type == "Sub":
            node.op_type = "Add"
    onnx.save(whole, file)
    assert checks(model) == [("answers", False)]
    file.write_bytes(b"no network")
    assert checks(model) == [("runs", False)]


def test_a_file_that_was_made_with_other_thresholds_is_told(tmp_path: Path) -> None:
    model = folder(tmp_path, DETECTORS["yolov8"][0], "yolov8")
    complete(model, BOTH)
    changed = folder(tmp_path, DETECTORS["yolov8"][0], "yolov8", iou=0.1)
    assert checks(changed) == [("current", False)]


def test_the_command_writes_the_file_and_tells_its_ends(tmp_path: Path) -> None:
    folder(tmp_path, DETECTORS["yolov8"][0], "yolov8")
    target = tmp_path / "whole.onnx"
    told = CliRunner().invoke(build(), ["complete", str(tmp_path), "--output", str(target)])
    assert told.exit_code == 0, told.output
    assert "(any, 64, 64, 3)" in told.output
    assert onnx.load(target).graph.input[0].name == "image"
    wrong = CliRunner().invoke(build(), ["complete", str(tmp_path), "--embed", "everything"])
    assert wrong.exit_code == 2
    assert "'everything' is none of" in wrong.output
