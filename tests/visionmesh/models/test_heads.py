from __future__ import annotations

from typing import Any

import pytest

from visionmesh.contracts import TensorMeta
from visionmesh.models.heads import class_count
from visionmesh.models.spec import ModelSpec

_Shapes = dict[str, tuple[int, ...]]


def count(decoder: str, shapes: _Shapes, labels: int = 0, **parameters: Any) -> int | None:
    spec = ModelSpec.model_validate(
        {
            "name": "finder",
            "task": "detection",
            "input": {"width": 64, "height": 64},
            "output": {"decoder": decoder, **parameters},
            "labels": [f"c{index}" for index in range(labels)],
        }
    )
    outputs = (TensorMeta(name=n, dtype="float32", shape=shape) for n, shape in shapes.items())
    return class_count(spec, tuple(outputs))


@pytest.mark.parametrize(
    ("decoder", "shape", "classes"),
    [
        ("softmax", (1000,), 1000),
        ("softmax", (7, 1, 1), 7),
        ("softmax", (-1,), None),
        ("yolox", (3549, 85), 80),
        ("yolov5", (-1, 85), 80),
        ("yolov8", (84, -1), 80),
        ("yolov8", (-1, 8400), None),
        ("obb", (20, 8400), 15),
        ("semantic", (19, 32, 32), 19),
        ("semantic", (1, 32, 32), None),
        ("end2end", (300, 6), None),
        ("yolov8", (84,), None),
        ("detr", (300, 84), 80),
        ("module:function", (84, 8400), None),
    ],
)
def test_one_output_tells_its_classes(
    decoder: str, shape: tuple[int, ...], classes: int | None
) -> None:
    assert count(decoder, {"o": shape}) == classes


@pytest.mark.parametrize(
    ("labels", "parameters", "classes"),
    [
        (90, {}, 90),
        (91, {}, 91),
        (7, {}, 91),
        (91, {"background": "first"}, 90),
        (90, {"background": "none"}, 91),
    ],
)
def test_a_background_is_no_label_unless_there_is_one_for_it(
    labels: int, parameters: dict[str, Any], classes: int
) -> None:
    shapes: _Shapes = {"boxes": (8732, 4), "scores": (8732, 91)}
    assert count("ssd", shapes, labels, **parameters) == classes


@pytest.mark.parametrize(
    ("labels", "parameters", "classes"),
    [(91, {}, 91), (92, {}, 92), (92, {"activation": "softmax"}, 91), (3, {}, 92)],
)
def test_no_object_is_no_label(labels: int, parameters: dict[str, Any], classes: int) -> None:
    shapes: _Shapes = {"logits": (100, 92), "pred_boxes": (100, 4)}
    assert count("detr", shapes, labels, **parameters) == classes


def test_scores_that_look_like_boxes_are_told_by_name() -> None:
    shapes: _Shapes = {"scores": (100, 4), "boxes": (100, 4)}
    assert count("ssd", shapes, 4) is None
    assert count("ssd", shapes, 4, scores="scores") == 4


def test_mask_coefficients_are_no_classes() -> None:
    assert count("yolov8_seg", {"o": (116, 8400), "protos": (32, 160, 160)}) == 80


def test_the_named_output_is_the_one_that_counts() -> None:
    shapes: _Shapes = {"features": (64, 7), "o": (84, 8400)}
    assert count("yolov8", shapes, tensor="o") == 80
