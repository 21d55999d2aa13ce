"""A residual network that tells handwritten digits, trained in seconds, and real images of them.

The images are scikit-learn's: 1,797 digits of 8 by 8 pixels, written by 43 people.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import yaml
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

torch = pytest.importorskip("torch", reason="training needs the extra `tune`")
datasets = pytest.importorskip("sklearn.datasets", reason="the digits are scikit-learn's")

SHADES = 16
BRIGHT = 240
TRAINED = 1200
"""The first so many images train; the others are written to files."""
_WIDTHS = (32, 32, 64, 128)
_EPOCHS = 6
_BATCH = 40


def save_digits(folder: Path) -> Path:
    """Write every image that the network is not trained on to ``folder/<digit>/<n>.png``."""
    digits = datasets.load_digits()
    for number in range(TRAINED, len(digits.target)):
        file = folder / str(digits.target[number]) / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = digits.images[number] * (BRIGHT / SHADES)
        cv2.imwrite(str(file), pixels.astype(np.uint8))
    return folder


def save_model(folder: Path) -> Path:
    """Train the network and write it as a model's folder; the same weights every time."""
    spec = {
        "task": "classification",
        "input": {
            "width": 8, "height": 8, "resize": "stretch", "color": "GRAY", "scale": 1 / BRIGHT,
        },
        "output": {"decoder": "softmax", "top_k": 3},
        "labels": [str(digit) for digit in range(10)],
    }  # fmt: skip
    (folder / "1").mkdir(parents=True)
    (folder / "model.yaml").write_text(yaml.safe_dump(spec))
    onnx.save(_exported(_trained()), folder / "1" / "model.onnx")
    return folder


def _conv(inputs: int, outputs: int, size: int, stride: int) -> Any:
    return torch.nn.Sequential(
        torch.nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False),
        torch.nn.BatchNorm2d(outputs),
    )


def _layers() -> Any:
    """Return the layers by name: a stem, and blocks of two convolutions and a shortcut."""
    layers = torch.nn.ModuleDict({"stem": _conv(1, _WIDTHS[0], 3, 1)})
    for number, (inputs, outputs) in enumerate(pairwise(_WIDTHS)):
        stride = 1 if inputs == outputs else 2
        layers[f"a{number}"] = _conv(inputs, outputs, 3, stride)
        layers[f"b{number}"] = _conv(outputs, outputs, 3, 1)
        layers[f"s{number}"] = _conv(inputs, outputs, 1, stride)
    layers["head"] = torch.nn.Linear(_WIDTHS[-1], 10)
    return layers


def _forward(layers: Any, images: Any) -> Any:
    x = torch.relu(layers["stem"](images))
    for n in range(len(_WIDTHS) - 1):
        inner = layers[f"b{n}"](torch.relu(layers[f"a{n}"](x)))
        x = torch.relu(inner + layers[f"s{n}"](x))
    return layers["head"](x.mean((2, 3)))


def _trained() -> Any:
    digits = datasets.load_digits()
    images = torch.tensor(digits.images[:TRAINED, None] / SHADES, dtype=torch.float32)
    truth = torch.tensor(digits.target[:TRAINED])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a network is slower with more
    torch.manual_seed(0)
    layers = _layers()
    steps = _EPOCHS * (TRAINED // _BATCH)
    optimiser = torch.optim.AdamW(layers.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    for _ in range(_EPOCHS):
        for part in torch.randperm(TRAINED).split(_BATCH):
            optimiser.zero_grad()
            scores = _forward(layers, images[part])
            torch.nn.functional.cross_entropy(scores, truth[part]).backward()
            optimiser.step()
            schedule.step()
    torch.set_num_threads(threads)
    return layers.eval()


def _exported(layers: Any) -> onnx.ModelProto:
    """Return the network as ONNX, with the normalisations folded into the convolutions."""
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def conv(name: str, source: str) -> str:
        (kernel, bias), stride = _folded(layers[name]), layers[name][0].stride[0]
        constants.extend((from_array(kernel, f"{name}.w"), from_array(bias, f"{name}.b")))
        nodes.append(
            helper.make_node(
                "Conv", [source, f"{name}.w", f"{name}.b"], [name],
                pads=[kernel.shape[2] // 2] * 4, strides=[stride] * 2,
            )
        )  # fmt: skip
        return name

    def then(operator: str, *sources: str, **attributes: Any) -> str:
        name = f"{operator}{len(nodes)}"
        nodes.append(helper.make_node(operator, sources, [name], **attributes))
        return name

    x = then("Relu", conv("stem", "image"))
    for n in range(len(_WIDTHS) - 1):
        inner = conv(f"b{n}", then("Relu", conv(f"a{n}", x)))
        x = then("Relu", then("Add", inner, conv(f"s{n}", x)))
    flat = then("Flatten", then("GlobalAveragePool", x))
    for name, values in layers["head"].state_dict().items():
        constants.append(from_array(values.numpy(), name))
    nodes.append(helper.make_node("Gemm", [flat, "weight", "bias"], ["scores"], transB=1))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 10])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def _folded(conv: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return kernel and bias of a convolution that normalises its output itself."""
    (plain, norm) = conv
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    kernel = plain.weight * factor[:, None, None, None]
    bias = norm.bias - norm.running_mean * factor
    return kernel.detach().numpy(), bias.detach().numpy()
