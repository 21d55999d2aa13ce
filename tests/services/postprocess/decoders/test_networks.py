"""Networks with the outputs of the real families, from a picture to the object that they tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, checker, helper, save_model
from onnx.numpy_helper import from_array

from services.postprocess.decoders.protocol import Array
from tests.services.postprocess.reference import sigmoid
from visionmesh.contracts import Params
from visionmesh.models.check import inspect
from visionmesh.models.spec import ModelSpec
from visionmesh.workbench import Workbench

WIDTH, HEIGHT = 96, 64
BRIGHTNESS = (0.4, 0.8, 0.6)
"""Of three pictures."""


class Head:
    """An output that is the same for every image, but for some values that grow with brightness."""

    def __init__(self, *shape: int, fill: float = 0.0) -> None:
        self.base = np.full(shape, fill, np.float32)
        self.slope = np.zeros(shape, np.float32)


def save(file: Path, heads: dict[str, Head]) -> Path:
    nodes = [helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=0)]
    weights, outputs = [], []
    for name, head in heads.items():
        shape = head.base.shape
        column = from_array(np.array([-1, *[1] * len(shape)]), f"{name}.column")
        weights += [from_array(head.base[None], f"{name}.base"), column]
        weights.append(from_array(head.slope[None], f"{name}.slope"))
        nodes += [
            helper.make_node("Reshape", ["mean", column.name], [f"{name}.mean"]),
            helper.make_node("Mul", [f"{name}.mean", f"{name}.slope"], [f"{name}.grown"]),
            helper.make_node("Add", [f"{name}.grown", f"{name}.base"], [name]),
        ]
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, HEIGHT, WIDTH])
    graph = helper.make_graph(nodes, "detector", [image], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    checker.check_model(model, full_check=True)
    file.parent.mkdir()
    save_model(model, file)
    return file


def yolov8() -> dict[str, Head]:
    head = Head(84, 126)
    head.base[:4, 7], head.slope[4 + 5, 7] = (48, 32, 24, 16), 1
    return {"output0": head}


def yolov5() -> dict[str, Head]:
    head = Head(378, 85)
    head.base[7, :5], head.slope[7, 5 + 5] = (48, 32, 24, 16, 1), 1
    return {"output0": head}


def yolox() -> dict[str, Head]:
    head = Head(126, 85)
    # Cell (5, 3) of the 12 x 8 cells of stride 8.
    head.base[3 * 12 + 5, :5] = (1, 1, np.log(3), np.log(2), 1)
    head.slope[3 * 12 + 5, 5 + 5] = 1
    return {"output": head}


def obb() -> dict[str, Head]:
    head = Head(85, 126)
    head.base[:4, 7], head.base[-1, 7] = (48, 32, 16, 24), np.pi / 2
    head.slope[4 + 5, 7] = 1
    return {"output0": head}


def yolov10() -> dict[str, Head]:
    head = Head(300, 6)
    head.base[3], head.slope[3, 4] = (36, 24, 60, 40, 0, 5), 1
    return {"output0": head}


def efficient_nms() -> dict[str, Head]:
    heads = {"det_boxes": Head(100, 4), "det_scores": Head(100), "det_classes": Head(100)}
    heads["det_boxes"].base[0] = (36, 24, 60, 40)
    heads["det_scores"].slope[:], heads["det_classes"].base[0] = 1, 5
    return heads | {"num_dets": Head(1, fill=1)}


def ssd() -> dict[str, Head]:
    heads = {"scores": Head(750, 81), "boxes": Head(750, 4)}
    heads["boxes"].base[7] = (36 / 96, 24 / 64, 60 / 96, 40 / 64)
    heads["scores"].base[:, 0], heads["scores"].slope[7, 1 + 5] = 1, 1
    return heads


def rt_detr() -> dict[str, Head]:
    heads = {"logits": Head(300, 80, fill=-9), "pred_boxes": Head(300, 4)}
    heads["pred_boxes"].base[7] = (0.5, 0.5, 0.25, 0.25)
    heads["logits"].base[7, 5], heads["logits"].slope[7, 5] = 0, 1
    return heads


def identity(brightness: float) -> float:
    return brightness


@pytest.mark.parametrize(
    ("heads", "decoder"),
    [
        (yolov8, "yolov8"),
        (yolov5, "yolov5"),
        (yolox, "yolox"),
        (obb, "obb"),
        (yolov10, "end2end"),
        (efficient_nms, "end2end"),
        (ssd, "ssd"),
        (rt_detr, "detr"),
    ],
)
def test_the_object_on_each_picture_is_told(heads: Any, decoder: str, tmp_path: Path) -> None:
    spec = describe(decoder)
    weights = save(tmp_path / "1" / "model.onnx", heads())
    assert inspect(weights, spec).batch is None
    bench = Workbench(spec)
    samples = [bench.sample(picture(brightness)) for brightness in BRIGHTNESS]
    engine = bench.open(weights)
    outputs = engine.run([sample.pixels for sample in samples])
    engine.close()
    score = sigmoid if heads is rt_detr else identity
    for index, (sample, brightness) in enumerate(zip(samples, BRIGHTNESS, strict=True)):
        (found,) = bench.read(outputs, index, sample, Params()).detections or ()
        assert found.label == "c5"
        assert found.score == pytest.approx(score(brightness), abs=2e-3)
        # The pictures are twice as large as the input.
        assert found.box == pytest.approx((72, 48, 120, 80), abs=0.05)


def describe(decoder: str) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": "finder",
            "task": "detection",
            "input": {"width": WIDTH, "height": HEIGHT, "scale": 1 / 255},
            "output": {"decoder": decoder},
            "labels": [f"c{index}" for index in range(80)],
        }
    )


def picture(brightness: float) -> bytes:
    pixels: NDArray[np.uint8] = np.full((2 * HEIGHT, 2 * WIDTH, 3), brightness * 255, np.uint8)
    encoded: Array = cv2.imencode(".png", pixels)[1]
    return encoded.tobytes()
