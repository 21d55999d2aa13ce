"""A complete file says of pixels what the mesh says of them, with ONNX Runtime alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
import yaml
from onnx import TensorProto, helper
from typer.testing import CliRunner

from tests.completed import images, png, run
from tests.networks import save_folder
from tests.visionmesh.models.importing.heads import CELLS, SIDE, Head, boxes, logits, network, save
from visionmesh.cli.app import build
from visionmesh.contracts import Detection, Params
from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.completing import COMPLETE_FILE, Part, complete, complete_checks
from visionmesh.models.folder import ModelFolder, load_folder
from visionmesh.models.pictures import Picture
from visionmesh.models.trial import drawn
from visionmesh.models.verifying import verify
from visionmesh.workbench import Workbench

Array = np.ndarray[Any, Any]

Outputs = Array | dict[str, Array]

RNG = np.random.default_rng(11)
LABELS = ["ant", "bee", "cat"]
BOTH = (Part.PREPROCESS, Part.POSTPROCESS)


def columns(count: int, *, unit: bool = False, objectness: bool = True) -> Array:
    """Return (count, 4 + objectness + 3): every second box is another one, moved a little."""
    found = boxes(count, unit=unit)
    found[1::2] = found[::2] + RNG.normal(0, 0.02, (count // 2, 4)) * (1 if unit else SIDE)
    found[:, 2:] = np.abs(found[:, 2:])
    scores = RNG.uniform(0.05, 0.95, (count, 3 + objectness))
    return np.concatenate((found, scores), axis=1).astype(np.float32)


def raw() -> Array:
    scores = RNG.uniform(0.3, 0.95, (CELLS, 4))
    offsets = RNG.uniform(0, 1, (CELLS, 2))
    return np.concatenate((offsets, logits(CELLS, 2) / 2, scores), axis=1).astype(np.float32)


def pairs(count: int, scores: int, *, form: str = "corners") -> Outputs:
    """Return boxes and scores of their own: every second box is another one, moved a little."""
    found = boxes(count, unit=True, form=form)
    found[1::2] = found[::2] + RNG.normal(0, 0.01, (count // 2, 4))
    low, high = np.minimum(found[:, :2], found[:, 2:]), np.maximum(found[:, :2], found[:, 2:])
    if form == "corners":
        found = np.concatenate((low, high), axis=1)
    told = RNG.uniform(0.02, 0.95, (count, scores))
    return {"scores": told.astype(np.float32), "boxes": found.astype(np.float32)}


def offsets(count: int) -> Outputs:
    moves = RNG.normal(0, 1, (count, 1, 4))
    return {"loc": moves.astype(np.float32), "conf": logits(count, 4)}


PRIORS = {
    "encoding": "offsets",
    "priors": [{"stride": 8, "sizes": [[12, 9], [20, 25]]}],
    "activation": "softmax",
}
DETECTORS: dict[str, tuple[Outputs, dict[str, Any]]] = {
    "ssd": (pairs(120, 3), {}),
    "ssd with a background": (
        pairs(120, 4, form="centers"),
        {"encoding": "centers", "background": "last", "order": "yx"},
    ),
    "ssd of priors": (offsets(2 * (SIDE // 8) ** 2), PRIORS),
    "detr": (
        {"logits": logits(60, 4), "boxes": pairs(60, 1, form="centers")["boxes"]},
        {"activation": "softmax"},
    ),
    "detr of classes": (
        {"logits": logits(60, 3), "boxes": pairs(60, 1, form="centers")["boxes"]},
        {},
    ),
    "detr in one": (
        np.concatenate((boxes(60), columns(60)[:, 4:7]), axis=1).astype(np.float32),
        {"normalized": False},
    ),
    "yolov8": (columns(84, objectness=False).T, {}),
    "yolov8 in parts": (columns(84, unit=True, objectness=False).T, {"normalized": True}),
    "yolov5": (columns(252), {}),
    "yolox": (raw(), {}),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "agnostic": {"nms": "agnostic"},
    "none": {"nms": "none", "max_detections": 9},
    "few": {"max_detections": 5},
    "strict with bees": {"class_confidence": {"bee": 0.8}, "iou": 0.2},
    "sure of nothing": {"confidence": 1.0},
}


def folder(
    root: Path,
    outputs: Outputs,
    decoder: str,
    *,
    batch: int | str = "n",
    task: str = "detection",
    input: dict[str, Any] | None = None,
    spec: dict[str, Any] | None = None,
    **output: Any,
) -> ModelFolder:
    """Make a folder whose network gives ``outputs``, a little changed by the image."""
    named = outputs if isinstance(outputs, dict) else {"output": outputs}
    heads = {name: Head(values, 0.02) for name, values in named.items()}
    save(network(heads, shape=(batch, 3, SIDE, SIDE)), root / "1" / "model.onnx")
    description = {
        "task": task,
        "input": {
            "width": SIDE,
            "height": SIDE,
            "scale": 1 / 255,
            "mean": [0.4, 0.5, 0.6],
            "std": [0.2, 0.25, 0.3],
        }
        | (input or {}),
        "output": {"decoder": decoder, **output},
        "labels": LABELS,
    } | (spec or {})
    (root / "model.yaml").write_text(yaml.safe_dump(description))
    return load_folder(root)


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


def assert_same(
    detections: tuple[Detection, ...],
    found: dict[str, Array],
    number: int,
    *,
    sides: tuple[int, int] = (SIDE, SIDE),
) -> None:
    """The mesh cuts boxes at the image's edges, and the file leaves them as they are."""
    own = found["batch"] == number
    cut = found["boxes"][own].clip(0, sides * 2).round(2)
    inside = (cut[:, 2:] > cut[:, :2]).all(axis=1)
    assert len(detections) == inside.sum()
    wanted = np.array([one.box for one in detections]).reshape(-1, 4)
    np.testing.assert_allclose(cut[inside], wanted, atol=0.02)
    scores = found["scores"][own][inside]
    np.testing.assert_allclose(scores, [one.score for one in detections], atol=2e-6)
    labels = [LABELS[index] for index in found["classes"][own][inside]]
    assert labels == [one.label for one in detections]


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


def test_scores_that_may_have_any_number_of_classes_are_refused(tmp_path: Path) -> None:
    model = folder(tmp_path, pairs(4, 3), "ssd")
    network = onnx.load(model.versions[1])
    all_of_them = helper.make_tensor("kept", TensorProto.BOOL, [3], [True] * 3)
    network.graph.initializer.append(all_of_them)
    network.graph.node.append(helper.make_node("Compress", ["scores", "kept"], ["some"], axis=2))
    del network.graph.output[:]
    for name, last in (("boxes", 4), ("some", "c")):
        shape = ["n", 4, last]
        network.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    onnx.save(network, model.versions[1])
    with pytest.raises(ConfigurationError, match="how many classes some has"):
        complete(model, BOTH)


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


def checks(
    model: ModelFolder, count: int = 4, *, sizes: list[tuple[int, int]] | None = None
) -> list[tuple[str, bool]]:
    bench = Workbench(model.spec)
    engine = bench.open(model.versions[1])
    pictures = [Picture(drawn(model.spec.input, seed), None) for seed in range(count)]
    if sizes is not None:
        pictures = [Picture(png(images(1, *size)[0]), None) for size in sizes]
    found = complete_checks(bench, engine, model.versions[1], pictures)
    return [(check.name, check.passed) for check in found]


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
