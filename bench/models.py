"""The model folders that the benchmarks push."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

YOLOX = Path(__file__).parents[2] / "shared" / "data" / "models" / "yolox_nano.onnx"
COCO = Path(__file__).parent / "coco.txt"
"""The labels of the data set COCO, one per line in their order."""


def yolox_folder(root: Path, *, name: str = "yolox-nano", cache: bool = True) -> Path:
    """Write the folder of YOLOX-nano, trained on COCO, and return it."""
    spec = {
        "task": "detection",
        "input": {
            "width": 416,
            "height": 416,
            "resize": "letterbox",
            "anchor": "top_left",
            "color": "BGR",
        },
        "output": {"decoder": "yolox", "confidence": 0.3},
        "labels": COCO.name,
        "cache": {"enabled": cache},
    }
    folder = _folder(root, name, spec)
    shutil.copyfile(COCO, folder / COCO.name)
    shutil.copyfile(YOLOX, folder / "1" / "model.onnx")
    return folder


def small_folder(root: Path, *, name: str = "small", cache: bool = True) -> Path:
    """Write the folder of a random classifier of about 5 ms on one core, and return it."""
    spec = {
        "task": "classification",
        "input": {
            "width": 224,
            "height": 224,
            "resize": "crop",
            "scale": 1 / 255,
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        },
        "output": {"decoder": "softmax", "top_k": 5},
        "labels": [f"class {number}" for number in range(100)],
        "cache": {"enabled": cache},
    }
    folder = _folder(root, name, spec)
    onnx.save(small_network(), folder / "1" / "model.onnx")
    return folder


def _folder(root: Path, name: str, spec: Mapping[str, object]) -> Path:
    folder = root / name
    (folder / "1").mkdir(parents=True, exist_ok=True)
    (folder / "model.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    return folder


def small_network(
    *, widths: tuple[int, ...] = (18, 36, 72, 144), depth: int = 2
) -> onnx.ModelProto:
    """Return a plain convolutional classifier: ``(N, 3, 224, 224) float32`` to ``(N, 100)``."""
    random = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def conv(source: str, channels: int, outputs: int, stride: int) -> str:
        number = len(weights)
        kernel = random.normal(0, (2 / (9 * channels)) ** 0.5, (outputs, channels, 3, 3))
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"w{number}"))
        nodes.append(
            helper.make_node(
                "Conv", [source, f"w{number}"], [f"c{number}"],
                pads=[1, 1, 1, 1], strides=[stride, stride],
            )
        )  # fmt: skip
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"]))
        return f"r{number}"

    last, channels = "images", 3
    for width in widths:
        for layer in range(depth):
            last = conv(last, channels, width, 2 if layer == 0 else 1)
            channels = width
    head = random.normal(0, 0.1, (channels, 100)).astype(np.float32)
    weights.append(numpy_helper.from_array(head, "head"))
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    nodes.append(helper.make_node("MatMul", ["flat", "head"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 224, 224])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 100])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
