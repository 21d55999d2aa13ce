"""Small real networks for the tests, and what they must answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, checker, helper, load, save_model
from onnx.numpy_helper import from_array

from visionmesh.models.spec import ModelSpec

CLASSES = 4


def weights(seed: int, channels: int = 3) -> NDArray[np.float32]:
    """Return ``(CLASSES, channels)`` weights that depend on ``seed`` only."""
    return np.random.default_rng(seed).normal(size=(CLASSES, channels)).astype(np.float32)


def expected(images: NDArray[np.float32], seed: int) -> NDArray[np.float64]:
    """Return the scores of `save_network` for ``(N, C, H, W)`` inputs, computed by NumPy."""
    answer: NDArray[np.float64] = images.astype(np.float64).mean(axis=(2, 3)) @ weights(
        seed, images.shape[1]
    ).T.astype(np.float64)
    return answer


def save_network(
    file: Path,
    *,
    shape: tuple[int | str, ...] = ("n", 3, 8, 6),
    dtype: int = TensorProto.FLOAT,
    seed: int = 0,
    external: bool = False,
) -> Path:
    """Write a network: a 1x1 convolution to `CLASSES` planes, and their means as scores (N, 4).

    ``shape`` is that of the input, channels second; the input is cast to float32 where it is not.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    channels = shape[1] if isinstance(shape[1], int) else 3
    kernel = weights(seed, channels).reshape(CLASSES, channels, *[1] * len(shape[2:]))
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Conv", ["pixels", "kernel"], ["planes"]),
            helper.make_node("GlobalAveragePool", ["planes"], ["means"]),
            helper.make_node("Flatten", ["means"], ["scores"], axis=1),
        ],
        "classifier",
        [helper.make_tensor_value_info("image", dtype, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [shape[0], CLASSES])],
        [from_array(kernel, "kernel")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    checker.check_model(model, full_check=True)
    save_model(model, file, save_as_external_data=external, location="kernel.bin", size_threshold=0)
    return file


def describe(**more: Any) -> ModelSpec:
    """Return the description of such a network; ``input`` is added to its usual size."""
    usual: dict[str, Any] = {
        "name": "trees",
        "task": "classification",
        "output": {"decoder": "softmax"},
    }
    image = {"width": 6, "height": 8, **more.pop("input", {})}
    return ModelSpec.model_validate({**usual, "input": image, **more})


def spoil_network(file: Path) -> None:
    """Let a network's last node make one row of a batch, which only a run shows."""
    network = load(file)
    last = network.graph.node.pop()
    network.graph.initializer.append(helper.make_tensor("sizes", TensorProto.FLOAT, [2], [1, -1]))
    network.graph.node.extend(
        [
            helper.make_node("Cast", ["sizes"], ["one"], to=TensorProto.INT64),
            helper.make_node("Reshape", [last.input[0], "one"], last.output),
        ]
    )
    save_model(network, file)


def save_folder(
    folder: Path,
    *,
    versions: tuple[int, ...] = (1,),
    shape: tuple[int | str, ...] = ("n", 3, 8, 6),
    more: str = "",
) -> Path:
    """Write a model's folder whose version ``v`` has the weights of seed ``v``; return it."""
    for version in versions:
        save_network(folder / str(version) / "model.onnx", shape=shape, seed=version)
    (folder / "model.yaml").write_text(
        "task: classification\n"
        "input: {width: 6, height: 8}\n"
        "output: {decoder: softmax}\n"
        "labels: [ash, birch, cedar, dogwood]\n" + more
    )
    return folder
