"""The loop that the mesh is divided by recognises what is there."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from bench.baseline import CONFIDENCE, IOU, Loop, Yolox, run, suppress
from services.preprocess.pixels import Prepared
from visionmesh.contracts import Placement

DATA = Path(__file__).parents[3] / "shared/data"
MODEL = DATA / "models/yolox_nano.onnx"
needs_model = pytest.mark.skipif(
    not MODEL.exists(), reason="the trained network (../shared/data/models) is not here"
)
BIRD, DOG = 14, 16


@pytest.mark.parametrize("seed", range(20))
def test_suppression_equals_opencv(seed: int) -> None:
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 200, (120, 2))
    sides = random.uniform(20, 120, (120, 2))
    boxes = np.hstack([corners, corners + sides]).astype(np.float32)
    scores = random.permutation(np.linspace(0.3, 0.9, 120)).astype(np.float32)
    classes = random.integers(0, 3, 120)
    expected = cv2.dnn.NMSBoxesBatched(
        np.hstack([corners, sides]).tolist(), scores.tolist(), classes.tolist(), CONFIDENCE, IOU
    )
    assert sorted(suppress(boxes, scores, classes)) == sorted(np.ravel(np.asarray(expected)))


def test_a_cell_becomes_a_box_of_the_original() -> None:
    output = np.zeros((64 + 16 + 4, 7), np.float32)
    # Row 1, column 2 of the second grid: 16 pixels a cell, 4 cells a row.
    output[64 + 4 + 2] = (0.5, 0.25, np.log(2), np.log(1), 0.9, 0.1, 0.8)
    facts = Prepared(128, 64, Placement(scale_x=0.5, scale_y=1.0, offset_x=0, offset_y=0))
    (found,) = Yolox(width=64, height=64).detect(output, facts)
    centre, half = np.array([2.5, 1.25]) * 16, np.array([16, 8])
    expected = [*((centre - half) / (0.5, 1)), *((centre + half) / (0.5, 1)), 0.72, 1]
    assert found == pytest.approx(expected, rel=1e-5)


@needs_model
@pytest.mark.parametrize(
    ("photo", "label"), [("n01514859_hen", BIRD), ("n02085620_Chihuahua", DOG)]
)
def test_the_loop_finds_the_animal_that_the_name_says(photo: str, label: int) -> None:
    objects = Loop(model=MODEL, threads=1).recognise((DATA / f"photos/{photo}.jpg").read_bytes())
    assert label in objects[:, 5]
    assert (objects[:, 4] > CONFIDENCE).all()


@needs_model
def test_a_run_reports_the_better_variant(tmp_path: Path) -> None:
    photo = DATA / "photos/n01514859_hen.jpg"
    (tmp_path / "one.jpg").write_bytes(photo.read_bytes())
    baseline = run(tmp_path, MODEL, seconds=0.2)
    assert baseline.images_per_s == max(baseline.variants.values()) > 0
    assert baseline.detections_per_image >= 1
