"""Networks with the outputs of the real families, from a picture to the object that they tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from services.postprocess.decoders.protocol import Array
from tests.heads import (
    BOX,
    HEIGHT,
    WIDTH,
    describe,
    efficient_nms,
    obb,
    rt_detr,
    save,
    ssd,
    yolov5,
    yolov8,
    yolov10,
    yolox,
)
from tests.services.postprocess.reference import sigmoid
from visionmesh.contracts import Params
from visionmesh.models.check import inspect
from visionmesh.workbench import Workbench

BRIGHTNESS = (0.4, 0.8, 0.6)
"""Of three pictures."""


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
        assert found.box == pytest.approx([2 * edge for edge in BOX], abs=0.05)


def picture(brightness: float) -> bytes:
    pixels: NDArray[np.uint8] = np.full((2 * HEIGHT, 2 * WIDTH, 3), brightness * 255, np.uint8)
    encoded: Array = cv2.imencode(".png", pixels)[1]
    return encoded.tobytes()
