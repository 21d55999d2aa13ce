"""A complete file that takes images of any size finds boxes where the mesh finds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.completed import png, run
from tests.visionmesh.models.completed_models import DETECTORS, assert_same, checks, folder
from visionmesh.contracts import Params
from visionmesh.models.completing import Part, complete
from visionmesh.workbench import Workbench


@pytest.mark.parametrize(
    "input",
    [{"pad": 0}, {"anchor": "top_left"}, {"resize": "crop"}, {"resize": "stretch"}],
    ids=["centered", "top left", "cropped", "stretched"],
)
@pytest.mark.parametrize("size", [(150, 97), (31, 90), (128, 85)])
def test_boxes_are_in_pixels_of_images_of_any_size(
    tmp_path: Path, input: dict[str, Any], size: tuple[int, int]
) -> None:
    model = folder(tmp_path, DETECTORS["yolov8"][0], "yolov8", input=input)
    file = complete(model, tuple(Part)).file
    bench = Workbench(model.spec)
    engine = bench.open(model.versions[1])
    # What this network says depends much on the brightness, and interpolation changes it a little.
    given = np.stack([np.full((*size, 3), value, np.uint8) for value in (90, 160)])
    found = run(file, given)
    for number, image in enumerate(given):
        sample = bench.sample(png(image))
        wanted = bench.read(engine.run([sample.pixels]), 0, sample, Params()).detections or ()
        assert len(wanted) > 0
        assert_same(wanted, found, number, sides=size[::-1])
    assert checks(model, sizes=[size, (64, 64), (17, 120)]) == [("pixels", True), ("answers", True)]


def test_an_entry_that_resizes_wrongly_is_told(tmp_path: Path) -> None:
    model = folder(tmp_path, DETECTORS["yolov8"][0], "yolov8", batch=2)
    file = complete(model, tuple(Part)).file
    whole = onnx.load(file)
    (resize,) = (node for node in whole.graph.node if node.op_type == "Resize")
    (mode,) = (one for one in resize.attribute if one.name == "coordinate_transformation_mode")
    mode.s = b"asymmetric"
    onnx.save(whole, file)
    assert checks(model, sizes=[(90, 150)]) == [("pixels", False), ("answers", True)]
