"""The outputs of every known family are recognised, and its model then answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.visionmesh.models.importing.heads import (
    CELLS,
    PRIORS,
    SIDE,
    Head,
    boxes,
    logits,
    network,
    save,
    scores,
)
from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.importing import Imported, Origin, Wishes, import_model
from visionmesh.models.spec import Task


class Family(NamedTuple):
    heads: dict[str, Head]
    decoder: str
    classes: int | None = 3
    """Labels that are given."""
    task: Task = Task.DETECTION
    parameters: dict[str, Any] = {}  # noqa: RUF012 - a value that no test changes


def columns(*parts: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.concatenate([part.T for part in parts])


def rows(*parts: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.concatenate(parts, axis=1)


def whole(*shape: int) -> np.ndarray[Any, Any]:
    return np.arange(np.prod(shape)).reshape(shape).astype(np.float32) % 3


def raw() -> np.ndarray[Any, Any]:
    offsets, sizes = scores(CELLS, 2), logits(CELLS, 2)
    return rows(offsets, sizes, scores(CELLS, 4))


SUPPRESSED = Head(
    rows(boxes(30, form="corners"), scores(30, 1), whole(30, 1)),
    np.array([0.01] * 5 + [0], np.float32),
)
ANGLE = scores(CELLS, 1) * 2 - 1

FAMILIES = {
    "yolov8": Family({"output0": Head(columns(boxes(CELLS), scores(CELLS, 3)))}, "yolov8"),
    "yolov8-normalized": Family(
        {"output0": Head(columns(boxes(CELLS, unit=True), scores(CELLS, 3)))},
        "yolov8",
        parameters={"normalized": True},
    ),
    "yolov8-unnamed": Family(
        {"output0": Head(columns(boxes(CELLS), scores(CELLS, 3)))}, "yolov8", None
    ),
    "yolov8-obb": Family(
        {"output0": Head(columns(boxes(CELLS), scores(CELLS, 3), ANGLE), 0.001)}, "obb"
    ),
    "yolov8-seg": Family(
        {
            "output0": Head(columns(boxes(CELLS), scores(CELLS, 3), logits(CELLS, 8))),
            "output1": Head(logits(8, SIDE // 4, SIDE // 4)),
        },
        "yolov8_seg",
        task=Task.SEGMENTATION,
    ),
    "yolov5": Family({"output": Head(rows(boxes(3 * CELLS), scores(3 * CELLS, 4)))}, "yolov5"),
    "yolov6": Family({"output": Head(rows(boxes(CELLS), scores(CELLS, 4)))}, "yolov5"),
    "yolox": Family({"output": Head(raw())}, "yolox"),
    "yolov10": Family({"output0": SUPPRESSED}, "end2end"),
    "efficient-nms": Family(
        {
            "num_dets": Head(np.array([3], np.int32), 0.0),
            "det_boxes": Head(boxes(20, form="corners")),
            "det_scores": Head(scores(20)),
            "det_classes": Head(whole(20).astype(np.int32), 0.0),
        },
        "end2end",
    ),
    "tensorflow-nms": Family(
        {
            "detection_boxes": Head(boxes(20, unit=True, form="corners")),
            "detection_scores": Head(scores(20)),
            "detection_classes": Head(whole(20) + 1, 0.0),
        },
        "end2end",
        parameters={"order": "yxyx", "first_class": 1, "normalized": True},
    ),
    "ssd": Family(
        {
            "scores": Head(logits(PRIORS, 4), end="Softmax"),
            "boxes": Head(boxes(PRIORS, unit=True, form="corners"), 0.001),
        },
        "ssd",
        parameters={
            **{"activation": "none", "background": "first", "encoding": "corners"},
            "normalized": True,
        },
    ),
    "detr": Family(
        {
            "logits": Head(logits(30, 4)),
            "pred_boxes": Head(boxes(30, unit=True), 0.001),
        },
        "detr",
        parameters={"activation": "softmax"},
    ),
    "rt-detr": Family(
        {
            "pred_logits": Head(logits(30, 3)),
            "pred_boxes": Head(boxes(30, unit=True), 0.001),
        },
        "detr",
        parameters={"activation": "sigmoid"},
    ),
    "rt-detr-joined": Family(
        {"output0": Head(rows(boxes(30, unit=True), scores(30, 3)), 0.001)},
        "detr",
        parameters={"activation": "none"},
    ),
    "logits": Family(
        {"scores": Head(logits(3))},
        "softmax",
        task=Task.CLASSIFICATION,
        parameters={"activation": "softmax"},
    ),
    "softmax": Family(
        {"scores": Head(logits(3), end="Softmax")},
        "softmax",
        task=Task.CLASSIFICATION,
        parameters={"activation": "none"},
    ),
    "sigmoid": Family(
        {"scores": Head(logits(3), end="Sigmoid")},
        "softmax",
        task=Task.CLASSIFICATION,
        parameters={"activation": "none"},
    ),
    "embedding": Family({"vector": Head(logits(16))}, "embedding", None, Task.EMBEDDING),
    "planes": Family({"out": Head(logits(3, 16, 16))}, "semantic", task=Task.SEGMENTATION),
    "planes-last": Family(
        {"out": Head(logits(16, 16, 3))},
        "semantic",
        task=Task.SEGMENTATION,
        parameters={"channels": "last"},
    ),
    "one-plane": Family(
        {"out": Head(logits(1, 16, 16), end="Sigmoid")},
        "semantic",
        1,
        Task.SEGMENTATION,
        {"threshold": 0.5},
    ),
    "classes": Family(
        {"out": Head(whole(16, 16).astype(np.int64), 0.0)}, "semantic", task=Task.SEGMENTATION
    ),
    "anomaly": Family({"map": Head(scores(1, 16, 16))}, "anomaly", None, Task.ANOMALY),
    "anomaly-scored": Family(
        {"anomaly_map": Head(scores(1, 16, 16)), "pred_score": Head(scores(1))},
        "anomaly",
        None,
        Task.ANOMALY,
        {"score": "pred_score"},
    ),
}


def imported(folder: Path, family: Family) -> Imported:
    file = save(network(family.heads), folder / "source.onnx")
    labels = None
    if family.classes is not None:
        labels = folder / "names.txt"
        labels.write_text("\n".join(f"kind {index}" for index in range(family.classes)))
    wishes = Wishes(
        name="parts",
        task=family.task,
        labels=labels,
        values={"input.width": SIDE, "input.height": SIDE},
    )
    return import_model(str(file), wishes, models=folder / "models")


@pytest.mark.parametrize("name", FAMILIES)
def test_the_outputs_of_a_family_are_recognised(tmp_path: Path, name: str) -> None:
    family = FAMILIES[name]
    done = imported(tmp_path, family)
    output = done.spec.output
    assert (output.decoder, done.spec.task) == (family.decoder, family.task)
    assert family.parameters.items() <= output.parameters.items()
    assert len(done.spec.labels) == (family.classes or 0)
    assert done.batch is None
    assert done.notes == ()


@pytest.mark.parametrize("name", ["yolov8", "yolov5", "yolox", "detr", "ssd", "logits", "planes"])
def test_labels_that_do_not_match_the_classes_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="correct the labels with --labels") as raised:
        imported(tmp_path, FAMILIES[name]._replace(classes=7))
    assert raised.value.code is Code.MODEL_INVALID
    assert not (tmp_path / "models" / "parts").exists()
    assert not list((tmp_path / "models").iterdir())


def test_values_that_are_no_shares_of_an_anomaly_are_asked_for(tmp_path: Path) -> None:
    family = FAMILIES["anomaly"]._replace(heads={"map": Head(scores(1, 16, 16) * 40)})
    with pytest.raises(ConfigurationError, match="say --set low=… --set threshold=… --set high=…"):
        imported(tmp_path, family)


def test_offsets_of_prior_boxes_are_asked_for(tmp_path: Path) -> None:
    heads = {**FAMILIES["ssd"].heads, "boxes": Head(logits(PRIORS, 4))}
    with pytest.raises(ConfigurationError, match="offsets from prior boxes: say --set priors=…"):
        imported(tmp_path, FAMILIES["ssd"]._replace(heads=heads))


def test_what_is_usual_for_a_family_is_marked_as_assumed(tmp_path: Path) -> None:
    done = imported(tmp_path, FAMILIES["yolox"])
    assert (done.spec.input.color, done.spec.input.anchor) == ("BGR", "top_left")
    assert done.facts["input.color"].origin is Origin.ASSUMED
    text = (done.folder / "model.yaml").read_text()
    assert "assumed: usual for YOLOX; --color says otherwise" in text
