"""A complete file makes of bytes what the workers make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openvino
import pytest
import yaml
from onnx import helper

from tests.completed import Array, images, png, run
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


SIZES = [(17, 5), (3, 4), (6, 8), (40, 90), (17, 16), (1, 200), (200, 13)]
"""Also those where a side would be 8.5 or a fraction of a pixel."""


@pytest.mark.parametrize("anchor", ["center", "top_left"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_images_of_any_size_are_letterboxed(tmp_path: Path, anchor: str, layout: str) -> None:
    model = resizing(tmp_path, resize="letterbox", anchor=anchor, layout=layout, pad=37)
    for height, width in SIZES:
        for pixels, image in zip(*resized(model, height, width), strict=True):
            scale = min(8 / width, 6 / height)
            size = max(1, round(width * scale)), max(1, round(height * scale))
            wanted = np.full((6, 8, 3), 37, np.uint8)
            x, y = ((8 - size[0]) // 2, (6 - size[1]) // 2) if anchor == "center" else (0, 0)
            wanted[y : y + size[1], x : x + size[0]] = linear(image, size)
            assert_near(pixels, wanted)


def test_images_of_any_size_are_cropped(tmp_path: Path) -> None:
    model = resizing(tmp_path, resize="crop")
    for height, width in SIZES[:5]:
        for pixels, image in zip(*resized(model, height, width), strict=True):
            scale = max(8 / width, 6 / height)
            across, down = round(width * scale), round(height * scale)
            x, y = (across - 8) // 2, (down - 6) // 2
            assert_near(pixels, linear(image, (across, down))[y : y + 6, x : x + 8])


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_images_of_any_size_are_stretched(tmp_path: Path, layout: str) -> None:
    model = resizing(tmp_path, resize="stretch", layout=layout)
    for height, width in SIZES:
        for pixels, image in zip(*resized(model, height, width), strict=True):
            assert_near(pixels, linear(image, (8, 6)))


@pytest.mark.parametrize("resize", ["letterbox", "crop", "stretch"])
def test_resized_pixels_are_those_of_the_mesh_also_in_another_runtime(
    tmp_path: Path, resize: str
) -> None:
    model = resizing(tmp_path, resize=resize, color="GRAY", layout="NHWC")
    file = complete(model, [Part.PREPROCESS, Part.RESIZE]).file
    compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    bench = Workbench(model.spec)
    for height, width in SIZES[:5]:
        encoded = png(images(1, height, width)[0])
        given = bench.original(encoded)[None]
        (theirs,) = compiled({"image": given}).to_dict().values()
        ours = run(file, given)["same"]
        for pixels in (theirs[0], ours[0]):
            assert_near(pixels, bench.sample(encoded).pixels)


def resizing(root: Path, **input: Any) -> ModelFolder:
    return pixels_folder(root, dtype="uint8", **input)


def resized(model: ModelFolder, height: int, width: int) -> tuple[Array, Array]:
    """Return what the model's complete file makes of two images, (2, 6, 8, 3), and these."""
    given = images(2, height, width)
    found = run(complete(model, [Part.PREPROCESS, Part.RESIZE]).file, given)["same"]
    return found if model.spec.input.layout == "NHWC" else found.transpose(0, 2, 3, 1), given


def linear(image: Array, size: tuple[int, int]) -> Array:
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR))


def assert_near(pixels: Array, wanted: Array) -> None:
    """OpenCV interpolates with whole numbers."""
    assert pixels.shape == wanted.shape
    assert np.abs(pixels.astype(int) - wanted).max() <= 1
