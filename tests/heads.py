"""Networks with the outputs of the real families, from a picture to what they tell of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, checker, helper, save_model
from onnx.numpy_helper import from_array

from visionmesh.models.spec import ModelSpec

WIDTH, HEIGHT = 96, 64
BOX = (36, 24, 60, 40)
"""``(x1, y1, x2, y2)`` of the object that a detector tells, in input pixels."""

MASKS = 8
"""Coefficients of a box, and prototypes."""

_GREY = 0.45
"""Of a usual photo."""


class Head:
    """An output that is the same for every image, but for some values that grow with brightness."""

    def __init__(self, *shape: int, fill: float = 0.0) -> None:
        self.base = np.full(shape, fill, np.float32)
        self.slope = np.zeros(shape, np.float32)
        self.shape = shape

    def nodes(self, name: str) -> tuple[list[NodeProto], dict[str, NDArray[np.generic]]]:
        weights = {
            f"{name}.column": np.array([-1, *[1] * len(self.shape)]),
            f"{name}.base": self.base[None],
            f"{name}.slope": self.slope[None],
        }
        return [
            helper.make_node("ReduceMean", ["image"], [f"{name}.means"], axes=[1, 2, 3]),
            helper.make_node("Reshape", [f"{name}.means", f"{name}.column"], [f"{name}.mean"]),
            helper.make_node("Mul", [f"{name}.mean", f"{name}.slope"], [f"{name}.grown"]),
            helper.make_node("Add", [f"{name}.grown", f"{name}.base"], [name]),
        ], weights


class Patches:
    """An output whose cells are random sums of the pixels below them; a grey photo makes them 0."""

    def __init__(self, channels: int, width: int, height: int) -> None:
        kernel = np.random.default_rng(channels).normal(size=(channels, 3, height, width))
        self._kernel = 4 / np.sqrt(kernel[0].size) * kernel
        self.shape = channels, HEIGHT // height, WIDTH // width

    def nodes(self, name: str) -> tuple[list[NodeProto], dict[str, NDArray[np.generic]]]:
        kernel, bias = f"{name}.kernel", f"{name}.bias"
        return [
            helper.make_node(
                "Conv", ["image", kernel, bias], [name], strides=self._kernel.shape[2:]
            )
        ], {
            kernel: self._kernel.astype(np.float32),
            bias: (-_GREY * self._kernel.sum(axis=(1, 2, 3))).astype(np.float32),
        }


Outputs = Mapping[str, Head | Patches]


def save(file: Path, heads: Outputs) -> Path:
    nodes, weights, outputs = [], [], []
    for name, head in heads.items():
        own, arrays = head.nodes(name)
        nodes += own
        weights += [from_array(array, key) for key, array in arrays.items()]
        shape = ["n", *head.shape]
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, HEIGHT, WIDTH])
    graph = helper.make_graph(nodes, "network", [image], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    checker.check_model(model, full_check=True)
    file.parent.mkdir()
    save_model(model, file)
    return file


def yolov8() -> Outputs:
    head = Head(84, 126)
    head.base[:4, 7], head.slope[4 + 5, 7] = (48, 32, 24, 16), 1
    return {"output0": head}


def yolov5() -> Outputs:
    head = Head(378, 85)
    head.base[7, :5], head.slope[7, 5 + 5] = (48, 32, 24, 16, 1), 1
    return {"output0": head}


def yolox() -> Outputs:
    head = Head(126, 85)
    # Cell (5, 3) of the 12 x 8 cells of stride 8.
    head.base[3 * 12 + 5, :5] = (1, 1, np.log(3), np.log(2), 1)
    head.slope[3 * 12 + 5, 5 + 5] = 1
    return {"output": head}


def obb() -> Outputs:
    head = Head(85, 126)
    head.base[:4, 7], head.base[-1, 7] = (48, 32, 16, 24), np.pi / 2
    head.slope[4 + 5, 7] = 1
    return {"output0": head}


def yolov10() -> Outputs:
    head = Head(300, 6)
    head.base[3], head.slope[3, 4] = (36, 24, 60, 40, 0, 5), 1
    return {"output0": head}


def efficient_nms() -> Outputs:
    heads: dict[str, Head] = {
        "det_boxes": Head(100, 4),
        "det_scores": Head(100),
        "det_classes": Head(100),
    }
    heads["det_boxes"].base[0] = (36, 24, 60, 40)
    heads["det_scores"].slope[:], heads["det_classes"].base[0] = 1, 5
    return heads | {"num_dets": Head(1, fill=1)}


def ssd() -> Outputs:
    heads: dict[str, Head] = {"scores": Head(750, 81), "boxes": Head(750, 4)}
    heads["boxes"].base[7] = (36 / 96, 24 / 64, 60 / 96, 40 / 64)
    heads["scores"].base[:, 0], heads["scores"].slope[7, 1 + 5] = 1, 1
    return heads


def rt_detr() -> Outputs:
    heads: dict[str, Head] = {"logits": Head(300, 80, fill=-9), "pred_boxes": Head(300, 4)}
    heads["pred_boxes"].base[7] = (0.5, 0.5, 0.25, 0.25)
    heads["logits"].base[7, 5], heads["logits"].slope[7, 5] = 0, 1
    return heads


def yolov8_seg() -> Outputs:
    head = Head(4 + 80 + MASKS, 126)
    # The second and third reach over the input's edges.
    for place, label, box, base, slope in (
        (7, 5, (48, 32, 24, 16), 0, 1),
        (40, 9, (20, 24, 44, 60), 0.35, 0.5),
        (99, 5, (80, 50, 40, 36), 0.9, -0.4),
    ):
        head.base[:4, place] = box
        head.base[4 + label, place], head.slope[4 + label, place] = base, slope
        head.base[-MASKS:, place] = np.random.default_rng(place).normal(size=MASKS)
    return {"output0": head, "output1": Patches(MASKS, 4, 4)}


def softmax() -> Outputs:
    return {"logits": Patches(10, WIDTH, HEIGHT)}


def embedding() -> Outputs:
    return {"vector": Patches(32, WIDTH, HEIGHT)}


def semantic() -> Outputs:
    return {"scores": Patches(4, 4, 4)}


def anomaly() -> Outputs:
    return {"map": Patches(1, 4, 4)}


_DESCRIPTIONS = {
    "softmax": ("classification", 10, {}),
    "embedding": ("embedding", 0, {}),
    "semantic": ("segmentation", 4, {}),
    "anomaly": ("anomaly", 0, {"low": -2.0, "threshold": 0.25, "high": 2.0}),
    "yolov8_seg": ("segmentation", 80, {}),
}


def describe(decoder: str) -> ModelSpec:
    task, labels, parameters = _DESCRIPTIONS.get(decoder, ("detection", 80, {}))
    return ModelSpec.model_validate(
        {
            "name": "finder",
            "task": task,
            "input": {"width": WIDTH, "height": HEIGHT, "scale": 1 / 255},
            "output": {"decoder": decoder, **parameters},
            "labels": [f"c{index}" for index in range(labels)],
        }
    )


FAMILIES = {
    "anomaly": anomaly,
    "detr": rt_detr,
    "embedding": embedding,
    "end2end": yolov10,
    "obb": obb,
    "semantic": semantic,
    "softmax": softmax,
    "ssd": ssd,
    "yolov5": yolov5,
    "yolov8": yolov8,
    "yolov8_seg": yolov8_seg,
    "yolox": yolox,
}
"""A network for each decoder."""
