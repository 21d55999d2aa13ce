"""A model that finds a place as anomalous as it is bright, and pictures for it."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from onnx import TensorProto, helper, save_model
from PIL import Image

NAME = "brightness"
SIZE = 32


def write_brightness(root: Path) -> Path:
    """Write the folder of the model and return it."""
    file = root / NAME / "1" / "model.onnx"
    file.parent.mkdir(parents=True)
    shape = ["n", 3, SIZE, SIZE]
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["image"], ["map"], axes=[1], keepdims=1)],
        NAME,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, ["n", 1, SIZE, SIZE])],
    )
    opset = helper.make_opsetid("", 17)
    save_model(helper.make_model(graph, opset_imports=[opset], ir_version=10), file)
    spec = {
        "task": "anomaly",
        "input": {"width": SIZE, "height": SIZE, "scale": 1 / 255, "pad": 255},
        "output": {"decoder": "anomaly", "threshold": 0.75},
        "labels": ["good", "bad"],
    }
    (root / NAME / "model.yaml").write_text(yaml.safe_dump(spec))
    return root / NAME


def spotted(seed: int) -> tuple[bytes, NDArray[np.bool_]]:
    """Return a dark wide image with a bright square as PNG, and where the square is."""
    pixels = np.full((64, 128), 20 + seed, np.uint8)
    pixels[20:40, 80:100] = 250
    file = BytesIO()
    Image.fromarray(np.stack([pixels] * 3, axis=-1)).save(file, "PNG")
    return file.getvalue(), pixels > 100
