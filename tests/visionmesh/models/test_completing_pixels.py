"""A complete file makes of bytes what the workers make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from onnx import helper

from tests.completed import images, png, run
from tests.visionmesh.models.importing.heads import save
from visionmesh.models.completing import Part, complete
from visionmesh.models.folder import ModelFolder, load_folder
from visionmesh.workbench import Workbench


def pixels_folder(root: Path, **input: Any) -> ModelFolder:
    """Make a folder whose network gives what it takes."""
    channels = 1 if input.get("color") == "GRAY" else 3
    shape = ["n", 6, 8, channels] if input.get("layout") == "NHWC" else ["n", channels, 6, 8]
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(input.get("dtype", "float32")))
    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["same"])],
        "pixels",
        [helper.make_tensor_value_info("image", dtype, shape)],
        [helper.make_tensor_value_info("same", dtype, shape)],
    )
    imports = [helper.make_opsetid("", 17)]
    save(helper.make_model(graph, opset_imports=imports, ir_version=8), root / "1" / "model.onnx")
    description = {
        "task": "classification",
        "input": {"width": 8, "height": 6, "resize": "stretch", **input},
        "output": {"decoder": "softmax"},
    }
    (root / "model.yaml").write_text(yaml.safe_dump(description))
    return load_folder(root)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"scale": 1 / 255, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        {"color": "GRAY", "scale": 1 / 255, "std": [0.5]},
    ],
)
def test_pixels_become_bit_for_bit_what_the_workers_make_of_them(
    tmp_path: Path, layout: str, dtype: str, settings: dict[str, Any]
) -> None:
    model = pixels_folder(tmp_path, layout=layout, dtype=dtype, **settings)
    bench = Workbench(model.spec)
    samples = [bench.sample(png(image)) for image in images(3, 6, 8)]
    file = complete(model, [Part.PREPROCESS]).file
    found = run(file, np.stack([sample.pixels for sample in samples]))
    np.testing.assert_array_equal(found["same"], bench.tensor(samples), strict=True)


@pytest.mark.parametrize(("height", "width"), [(17, 5), (3, 4), (6, 8), (40, 90)])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_images_of_any_size_are_stretched(
    tmp_path: Path, height: int, width: int, layout: str
) -> None:
    model = pixels_folder(tmp_path, layout=layout, dtype="uint8")
    file = complete(model, [Part.PREPROCESS, Part.RESIZE]).file
    given = images(2, height, width)
    found = run(file, given)["same"].astype(int)
    stretched = np.stack([cv2.resize(one, (8, 6), interpolation=cv2.INTER_LINEAR) for one in given])
    wanted = stretched if layout == "NHWC" else stretched.transpose(0, 3, 1, 2)
    assert np.abs(found - wanted).max() <= 1
