"""Results drawn, and as detections of supervision."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import supervision
from PIL import Image

from tests.references import make_reference, make_result
from visionmesh import rle
from visionmesh.contracts import Detection, Result
from visionmesh.drawing import draw

CORNERS = ((1.0, 2.0), (9.0, 1.0), (10.0, 7.0), (2.0, 8.0))


def found(*detections: Detection) -> Result:
    return make_result(make_reference(), detections=detections)


RESULT = found(
    Detection(label="cat", score=0.9, box=(20, 30, 60, 50)),
    Detection(label="dog", score=0.5, box=(0, 0, 10.5, 20)),
)


def test_draws_on_whatever_was_published(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (90, 120, 3), np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(file.getvalue())
    expected = draw(np.ascontiguousarray(pixels[..., ::-1]), RESULT)[..., ::-1]
    for image in (pixels, file.getvalue(), path, str(path), Image.fromarray(pixels)):
        np.testing.assert_array_equal(RESULT.draw(image), expected)
    assert not np.array_equal(expected, pixels)


def test_draws_a_photo_the_way_up_that_its_result_speaks_of(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=turned)
    assert RESULT.draw(tmp_path / "a.jpg").shape == (40, 20, 3)


@pytest.mark.parametrize("image", [b"", b"no image", np.zeros((2, 2), np.uint8)])
def test_what_cannot_be_drawn_on_is_told(image: Any) -> None:
    with pytest.raises(ValueError, match=r"cannot be decoded|must be"):
        RESULT.draw(image)


def test_says_which_package_is_missing() -> None:
    script = """
import sys
sys.modules["cv2"] = sys.modules["supervision"] = None
from visionmesh import Result, Status
result = Result(id="a", source="a", model="a", status=Status.OK)
for work in (lambda: result.draw(b"x"), result.to_supervision):
    try:
        work()
    except ModuleNotFoundError as error:
        print(error)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == [
        "Drawing needs OpenCV: pip install opencv-python-headless",
        "This needs supervision: pip install supervision",
    ]


def test_supervision_has_every_field() -> None:
    detections = RESULT.to_supervision(["dog", "cat"])
    assert isinstance(detections, supervision.Detections)
    assert detections.xyxy.tolist() == [[20, 30, 60, 50], [0, 0, 10.5, 20]]
    np.testing.assert_allclose(detections.confidence, [0.9, 0.5], rtol=1e-6)
    assert detections.class_id.tolist() == [1, 0]
    assert detections["class_name"].tolist() == ["cat", "dog"]
    assert detections.mask is None
    drawn = supervision.BoxAnnotator().annotate(np.zeros((90, 120, 3), np.uint8), detections)
    assert drawn.any()


def test_without_labels_a_class_has_the_same_number_in_every_result() -> None:
    numbers = dict(
        zip(
            RESULT.to_supervision()["class_name"],
            RESULT.to_supervision().class_id,
            strict=True,
        )
    )
    alone = found(Detection(label="dog", score=0.5, box=(0, 0, 1, 1))).to_supervision()
    assert alone.class_id.tolist() == [numbers["dog"]]
    assert numbers["dog"] != numbers["cat"]


def test_supervision_has_masks_and_turned_boxes() -> None:
    mask = np.zeros((90, 120), bool)
    mask[5:9, 6:20] = True
    one = Detection(
        label="cat", score=0.9, box=(1, 1, 10, 8), corners=CORNERS, mask=rle.encode(mask)
    )
    detections = found(one, one).to_supervision()
    np.testing.assert_array_equal(detections.mask, [mask, mask])
    np.testing.assert_array_equal(detections.data["xyxyxyxy"], np.array([CORNERS] * 2))
    image = np.zeros((90, 120, 3), np.uint8)
    assert supervision.OrientedBoxAnnotator().annotate(image, detections).any()
    assert cv2.countNonZero(detections.mask[0].astype(np.uint8)) == 56


def test_nothing_found_is_no_detections() -> None:
    assert len(found().to_supervision()) == 0
