"""The model that the project ships finds flaws on boards that nobody has seen."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest

from visionmesh.models.folder import load_folder
from visionmesh.models.spec import Task
from visiontune.boards import LABELS, draw_board
from visiontune.evaluation import Marked
from visiontune.inspection import Inspector, inspect

FOLDER = Path(__file__).parents[2] / "models" / "board-defects"
WEIGHTS = FOLDER / "1" / "model.onnx"


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(WEIGHTS, providers=["CPUExecutionProvider"])


def test_its_folder_says_what_the_file_takes_and_gives(
    session: onnxruntime.InferenceSession,
) -> None:
    spec = load_folder(FOLDER).spec
    assert spec.task is Task.DETECTION
    assert spec.labels == LABELS
    assert spec.output.decoder == "yolov8"
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert taken.shape == ["batch", spec.input.channels, spec.input.height, spec.input.width]
    assert taken.type == "tensor(float)"
    assert given.shape[:2] == ["batch", 4 + len(spec.labels)]
    assert spec.input.scale == pytest.approx(1 / 255)


def test_its_file_is_small() -> None:
    assert WEIGHTS.stat().st_size <= 2_000_000


def test_it_finds_the_flaws_of_unseen_boards() -> None:
    rng = np.random.default_rng(20_240_607)
    boards = [draw_board(rng) for _ in range(40)]
    pairs = [(b.image[..., 0], Marked(b.boxes, b.labels)) for b in boards]
    assert inspect(Inspector(WEIGHTS), pairs, iou=0.33).mean() >= 0.9


def test_an_image_has_the_same_answer_in_every_batch(
    session: onnxruntime.InferenceSession,
) -> None:
    rng = np.random.default_rng(1)
    images = np.stack([draw_board(rng).image[None, ..., 0] for _ in range(3)]).astype(np.float32)
    images /= 255
    (together,) = session.run(None, {"images": images})
    for image, answer in zip(images, together, strict=True):
        (alone,) = session.run(None, {"images": image[None]})
        np.testing.assert_allclose(alone[0], answer, atol=1e-3)


def test_scores_are_shares_and_sizes_are_positive(session: onnxruntime.InferenceSession) -> None:
    noise = np.random.default_rng(2).random((1, 1, 640, 640), np.float32)
    (output,) = session.run(None, {"images": noise})
    assert np.isfinite(output).all()
    assert (output[:, 2:4] >= 0).all()
    assert ((output[:, 4:] >= 0) & (output[:, 4:] <= 1)).all()


def test_its_samples_are_boards() -> None:
    samples = sorted((FOLDER / "samples").glob("*.png"))
    assert len(samples) == 6
    for path in samples:
        image = np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), np.uint8)
        assert image.shape == (640, 640)
        assert Inspector(WEIGHTS)(image).scores.max() > 0.3
