"""From a file to a folder: what is found, what is asked, and what an existing model says to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper
from onnx.numpy_helper import from_array

from tests.visionmesh.models.importing.heads import (
    CELLS,
    SIDE,
    Head,
    boxes,
    logits,
    network,
    save,
    scores,
)
from visionmesh.errors import Code, ConfigurationError, Refused
from visionmesh.models.check import inspect
from visionmesh.models.folder import load_folder
from visionmesh.models.importing import Imported, Origin, Wishes, import_model
from visionmesh.models.spec import Resize, Task

DETECTIONS = np.concatenate((boxes(CELLS).T, scores(2, CELLS)))
ULTRALYTICS = {
    "stride": "32",
    "task": "detect",
    "names": "{0: 'bolt', 1: 'nut'}",
    "imgsz": f"[{SIDE}, {SIDE}]",
}
CLASSES = {"scores": Head(logits(3))}


def detector(**more: Any) -> ModelProto:
    return network({"output0": Head(DETECTIONS)}, **more)


def imported(model: ModelProto, folder: Path, **wishes: Any) -> Imported:
    force = wishes.pop("force", False)
    file = save(model, folder / "best.onnx")
    wanted = Wishes(**{"name": "parts", **wishes})
    return import_model(str(file), wanted, models=folder / "models", force=force)


def test_the_folder_is_one_that_can_be_pushed(tmp_path: Path) -> None:
    done = imported(detector(), tmp_path, values={"input.resize": "stretch"})
    folder = load_folder(done.folder)
    assert folder.spec == done.spec
    assert (folder.spec.name, folder.spec.input.resize) == ("parts", Resize.STRETCH)
    assert list(folder.versions) == [done.version] == [1]
    signature = inspect(folder.versions[1], folder.spec)
    assert signature.batch is None
    assert done.size_bytes == folder.versions[1].stat().st_size
    assert sorted(entry.name for entry in done.folder.iterdir()) == ["1", "model.yaml"]


def test_what_ultralytics_writes_is_used(tmp_path: Path) -> None:
    shape = ("n", 3, "h", "w")
    done = imported(detector(shape=shape, metadata=ULTRALYTICS), tmp_path)
    assert done.spec.labels == ("bolt", "nut")
    assert (done.spec.input.width, done.spec.input.height) == (SIDE, SIDE)
    assert done.facts["task"].origin is Origin.FOUND
    assert (done.folder / "labels.txt").read_text() == "bolt\nnut\n"


def test_a_task_that_is_not_served_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="the task 'pose', which is not served"):
        imported(detector(metadata={**ULTRALYTICS, "task": "pose"}), tmp_path)


def test_a_classifier_of_ultralytics_takes_pixels_from_0_to_1(tmp_path: Path) -> None:
    metadata = {**ULTRALYTICS, "task": "classify", "names": "['a', 'b', 'c']"}
    done = imported(network(CLASSES, metadata=metadata), tmp_path)
    assert (done.spec.input.mean, done.spec.input.std) == ((0.0,), (1.0,))
    assert done.spec.input.scale == pytest.approx(1 / 255)


@pytest.mark.parametrize(
    ("operation", "constant", "scale"),
    [
        ("Mul", [1 / 255], 1.0),
        ("Div", [255.0], 1.0),
        ("Sub", [123.7, 116.3, 103.5], 1.0),
        ("Sub", [0.485, 0.456, 0.406], 1 / 255),
        ("Div", [0.229, 0.224, 0.225], 1 / 255),
        ("Mul", [2.0], 1 / 255),
    ],
)
def test_a_network_that_normalises_itself_is_left_to_it(
    tmp_path: Path, operation: str, constant: list[float], scale: float
) -> None:
    operand = from_array(np.array(constant, np.float32).reshape(1, -1, 1, 1), "constant")
    entry = [helper.make_node(operation, ["images", "constant"], ["pixels"])]
    model = network(CLASSES, entry=entry, constants=[operand])
    done = imported(model, tmp_path, task=Task.CLASSIFICATION)
    assert done.spec.input.scale == pytest.approx(scale)
    assert (done.spec.input.mean, done.spec.input.std) == ((0.0,), (1.0,))
    assert "normalises by itself" in done.facts["input.scale"].why


def test_what_is_assumed_can_be_said_otherwise(tmp_path: Path) -> None:
    values = {"input.scale": 1.0, "input.mean": (104.0, 117.0, 123.0), "input.color": "BGR"}
    done = imported(network(CLASSES), tmp_path, task=Task.CLASSIFICATION, values=values)
    assert (done.spec.input.scale, done.spec.input.color) == (1.0, "BGR")
    assert done.spec.input.mean == (104.0, 117.0, 123.0)
    assert done.facts["input.mean"].origin is Origin.GIVEN


@pytest.mark.parametrize(
    ("changes", "wishes", "message"),
    [
        ({"shape": ("n", 3, "h", "w")}, {}, "takes any size.* say it with --input"),
        ({"shape": ("n", "c", SIDE, SIDE)}, {}, r"\(\?, \?, 64, 64\).* say it with --layout NCHW"),
        ({"shape": ("n", 4, SIDE, SIDE)}, {}, "say it with --layout"),
        (
            {"shape": (1, SIDE, SIDE, 1)},
            {"values": {"input.color": "RGB"}},
            "--color says RGB, but",
        ),
        ({}, {"values": {"input.width": 640}}, "--input says 640, but .* input.width is 64"),
        ({}, {"values": {"input.layout": "NHWC"}}, "--layout says NHWC, but"),
        ({}, {"task": Task.SEGMENTATION}, "they look like --task detection --decoder yolov8"),
        ({}, {"values": {"output.decoder": "detr"}}, "no known decoder"),
    ],
)
def test_what_cannot_be_is_asked_for_with_what_was_seen(
    tmp_path: Path, changes: dict[str, Any], wishes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as raised:
        imported(detector(**changes), tmp_path, **wishes)
    assert raised.value.code is Code.MODEL_INVALID


def test_several_readings_of_one_output_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"scores \(3,\) float32, .* say which") as raised:
        imported(network(CLASSES), tmp_path)
    assert "--task classification --decoder softmax" in raised.value.message
    assert "--task embedding --decoder embedding" in raised.value.message


def test_a_decoder_that_cannot_read_the_outputs_is_refused(tmp_path: Path) -> None:
    values = {"output.decoder": "yolox"}
    with pytest.raises(ConfigurationError, match=r"cannot serve as yolox: .* sees"):
        imported(detector(), tmp_path, task=Task.DETECTION, values=values)


def test_outputs_that_nobody_reads_are_dropped(tmp_path: Path) -> None:
    model = network({"out": Head(logits(3, 16, 16)), "aux": Head(logits(3, 16, 16))})
    done = imported(model, tmp_path, task=Task.SEGMENTATION)
    signature = inspect(done.folder / "1" / "model.onnx", done.spec)
    assert [output.name for output in signature.outputs] == ["out"]


def test_a_second_input_is_named(tmp_path: Path) -> None:
    model = detector()
    model.graph.input.append(
        helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, ["n", 2])
    )
    with pytest.raises(ConfigurationError, match=r"orig_target_sizes \(\?, 2\); export it without"):
        imported(model, tmp_path)


def test_a_known_name_gets_one_more_version_and_keeps_its_words(tmp_path: Path) -> None:
    first = imported(detector(metadata=ULTRALYTICS), tmp_path)
    spec = first.folder / "model.yaml"
    spec.write_text(spec.read_text() + "window: 7\n")
    second = imported(detector(metadata=ULTRALYTICS, opset=16), tmp_path)
    assert (first.version, second.version) == (1, 2)
    assert second.spec.window == 7
    assert list(load_folder(second.folder).versions) == [1, 2]


def test_a_known_name_with_another_network_is_refused(tmp_path: Path) -> None:
    first = imported(detector(metadata=ULTRALYTICS), tmp_path)
    metadata = {**ULTRALYTICS, "names": "['bolt', 'screw']"}
    with pytest.raises(ConfigurationError, match=r"its labels is .*'nut'.* where .*'screw'"):
        imported(detector(metadata=metadata), tmp_path)
    assert list(load_folder(first.folder).versions) == [1]


def test_force_replaces_a_model_and_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    first = imported(detector(metadata=ULTRALYTICS), tmp_path)
    imported(detector(metadata=ULTRALYTICS), tmp_path)
    (first.folder / "README.md").write_text("Ours.")
    done = imported(network(CLASSES), tmp_path, task=Task.CLASSIFICATION, force=True)
    assert (done.version, done.spec.task, done.spec.labels) == (1, Task.CLASSIFICATION, ())
    names = sorted(entry.name for entry in done.folder.iterdir())
    assert names == ["1", "README.md", "model.yaml"]


def test_a_failure_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    first = imported(detector(), tmp_path)
    before = {file: file.stat().st_mtime_ns for file in first.folder.rglob("*")}
    with pytest.raises(ConfigurationError):
        imported(network(CLASSES), tmp_path, force=True)
    assert {file: file.stat().st_mtime_ns for file in first.folder.rglob("*")} == before
    assert [entry.name for entry in first.folder.parent.iterdir()] == ["parts"]


@pytest.mark.parametrize("name", ["../parts", "Parts", "a/b", ".hidden", ""])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refused) as raised:
        imported(detector(), tmp_path, name=name)
    assert raised.value.code is Code.INVALID_NAME


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("best.keras", r"model.export\(folder\)"),
        ("best.engine", "one kind of GPU only"),
        ("best.safetensors", "weights only"),
        ("best.txt", "a network is an .onnx"),
    ],
)
def test_what_is_no_network_is_told_what_to_do(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(b"?")
    with pytest.raises(ConfigurationError, match=message):
        import_model(str(tmp_path / name), Wishes(name="parts"), models=tmp_path / "models")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.onnx is not there"):
        import_model(str(tmp_path / "nowhere.onnx"), Wishes(name="parts"), models=tmp_path / "m")


def test_what_a_classifier_does_not_tell_is_marked_as_assumed(tmp_path: Path) -> None:
    """Also the order of colours: a network that was trained with BGR would be wrong in silence."""
    values = {"input.resize": "letterbox"}
    done = imported(network(CLASSES), tmp_path, task=Task.CLASSIFICATION, values=values)
    assumed = {key for key, fact in done.facts.items() if fact.origin is Origin.ASSUMED}
    told = ("anchor", "color", "scale", "mean", "std", "pad")
    assert assumed == {*(f"input.{key}" for key in told), "output.activation"}
    text = (done.folder / "model.yaml").read_text()
    for key in told:
        line = next(line for line in text.splitlines() if line.startswith(f"  {key}:"))
        assert f"assumed: usual for classifiers; --{key} says otherwise" in line


def test_labels_tell_a_classifier_from_an_embedding(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    done = imported(network(CLASSES), tmp_path, labels=tmp_path / "labels.txt")
    assert (done.spec.task, done.spec.labels) == (Task.CLASSIFICATION, ("a", "b", "c"))
