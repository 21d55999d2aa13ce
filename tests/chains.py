"""Chains of small convolutions whose weakness is known, and pictures for them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

CHANNELS = 8
Kernels = list[NDArray[np.float32]]


def save_chain(folder: Path, kernels: Kernels) -> Path:
    """Write a classifier of 1x1 convolutions one behind the other, and the means of the last."""
    nodes, constants, last = [], [], "image"
    for number, kernel in enumerate(kernels):
        constants.append(from_array(kernel.astype(np.float32)[:, :, None, None], f"w{number}"))
        nodes.append(
            helper.make_node("Conv", [last, f"w{number}"], [f"c{number}"], name=f"conv{number}")
        )
        last = f"c{number}"
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["means"], name="pool"))
    nodes.append(helper.make_node("Flatten", ["means"], ["scores"], axis=1, name="flat"))
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 4, 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", CHANNELS])],
        constants,
    )
    (folder / "1").mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, folder / "1" / "model.onnx")
    (folder / "model.yaml").write_text(
        "task: classification\n"
        "input: {width: 4, height: 4, resize: stretch, scale: 0.00392}\n"
        "output: {decoder: softmax}\n"
    )
    return folder


def mixing(random: np.random.Generator, inputs: int = CHANNELS) -> NDArray[np.float32]:
    """Return a rotation: what differs before differs as much behind it."""
    rotation, _ = np.linalg.qr(random.normal(size=(CHANNELS, CHANNELS)))
    return rotation[:, :inputs].astype(np.float32)


def fragile(random: np.random.Generator) -> Kernels:
    """Return a chain that 8 bits destroy, of two layers: without either the other one hurts.

    Between them one channel is 2,000 times as large as what matters. The second convolution ignores
    it, but the scale has to cover it.
    """
    loud, deaf = mixing(random, 3), mixing(random)
    loud[0] *= 2000
    deaf[:, 0] = 0
    return [loud, deaf]


def save_colours(folder: Path, count: int = 90) -> Path:
    """Write pictures of one colour each, all nearly pure."""
    random = np.random.default_rng(1)
    for number in range(count):
        colour = np.eye(3)[number % 3] * 200 + random.integers(0, 50, 3)
        cv2.imwrite(str(folder / f"{number:02}.png"), np.broadcast_to(colour, (4, 4, 3)))
    return folder
