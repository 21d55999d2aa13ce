"""A detector learns, and says the same as ONNX as it said in torch."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch", reason="training needs the extra `tune`")

from visiontune.boards import LABELS, Board, draw_board  # noqa: E402 - torch first
from visiontune.detector import Detector, Exported, sides  # noqa: E402
from visiontune.export import export  # noqa: E402
from visiontune.inspection import decode  # noqa: E402
from visiontune.objective import focal_loss, overlap_loss, targets  # noqa: E402
from visiontune.training import Plan, train, turned  # noqa: E402


@pytest.fixture(scope="module")
def boards() -> list[Board]:
    rng = np.random.default_rng(3)
    drawn = (draw_board(rng, flaws=20) for _ in range(8))
    return [board._replace(image=board.image[..., 0].copy()) for board in drawn]


def test_the_loss_falls_and_the_same_seed_learns_the_same(boards: list[Board]) -> None:
    def losses() -> list[float]:
        told: dict[int, float] = {}
        train(boards, plan=Plan(epochs=3), seed=1, report=told.__setitem__)
        assert list(told) == [1, 2, 3]
        return list(told.values())

    course = losses()
    assert course[-1] < 0.8 * course[0]
    assert losses() == pytest.approx(course, rel=0.02)


def test_the_exported_file_says_what_the_detector_says(tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector = Detector(len(LABELS)).eval()
    export(detector, tmp_path / "1" / "model.onnx")
    images = torch.rand(3, 1, 640, 640)
    with torch.no_grad():
        expected = Exported(detector, size=640)(images).numpy()
    session = onnxruntime.InferenceSession(tmp_path / "1" / "model.onnx")
    (output,) = session.run(["detections"], {"images": images.numpy()})
    assert output.shape == (3, 4 + len(LABELS), 6400)
    np.testing.assert_allclose(output, expected, atol=1e-3)


def test_a_detector_that_hits_its_targets_is_decoded_to_the_marked_boxes(
    boards: list[Board],
) -> None:
    """Targets, distances and the exported decoding are each other's inverse."""
    board = boards[0]
    truth = targets(board.boxes, board.labels, cells=80)
    raw = torch.zeros(1, 4 + len(LABELS), 80, 80)
    # The inverse of a softplus that is scaled by 16.
    raw[0, :4] = torch.log(torch.expm1(truth.boxes.clamp(min=0.1) / 16))
    raw[0, 4:] = torch.where(truth.peaks == 1, 10.0, -10.0)
    perfect = Exported(Detector(len(LABELS)), size=640)
    perfect.detector = torch.nn.Identity()
    with torch.no_grad():
        seen = decode(perfect(raw)[0].numpy())
    order, wanted = np.lexsort(seen.boxes.T.round()), np.lexsort(board.boxes.T.round())
    np.testing.assert_allclose(seen.boxes[order], board.boxes[wanted], atol=0.01)
    np.testing.assert_array_equal(seen.labels[order], board.labels[wanted])


def test_an_image_without_flaws_has_nothing_to_learn_but_silence() -> None:
    truth = targets(np.empty((0, 4), np.float32), np.empty(0, np.intp), cells=80)
    assert not truth.peaks.any()
    assert not truth.sure.any()


def test_the_focal_loss_by_hand() -> None:
    logits = torch.tensor([0.0, 0.0, 0.0])
    peaks = torch.tensor([1.0, 0.0, 0.5])
    # Half a score costs ln 2 times (1/2)^2, near a peak of one half that times (1/2)^4.
    expected = math.log(2) / 4 * (1 + 1 + 1 / 16)
    assert focal_loss(logits, peaks).item() == pytest.approx(expected)


def test_the_overlap_loss_by_hand() -> None:
    box = torch.tensor([[5.0, 5.0, 5.0, 5.0]])
    assert overlap_loss(box, box).item() == 0
    # 10 x 10 within 20 x 10: overlap one half, and the hull is no larger than the union.
    assert overlap_loss(box, torch.tensor([[15.0, 5.0, 5.0, 5.0]])).item() == pytest.approx(0.5)
    # A cross of 20 x 10 and 10 x 20: overlap 100 of 300, hull 400.
    cross = torch.tensor([[10.0, 5.0, 10.0, 5.0]]), torch.tensor([[5.0, 10.0, 5.0, 10.0]])
    assert overlap_loss(*cross).item() == pytest.approx(1 - 1 / 3 + 1 / 4)


@pytest.mark.parametrize("way", range(8))
def test_a_turned_board_has_its_boxes_where_its_flaws_went(boards: list[Board], way: int) -> None:
    board = boards[0]
    marks = np.zeros((640, 640), np.uint8)
    for label, (x1, y1, x2, y2) in enumerate(board.boxes.astype(int), start=1):
        marks[y1:y2, x1:x2] = label
    after = turned(board._replace(image=marks), way)
    for label, (x1, y1, x2, y2) in enumerate(after.boxes.astype(int), start=1):
        assert (after.image[y1:y2, x1:x2] == label).all()
        assert (after.image == label).sum() == (y2 - y1) * (x2 - x1)


def test_distances_are_never_negative() -> None:
    assert (sides(torch.linspace(-50, 50, 4 * 9).reshape(1, 4, 3, 3)) >= 0).all()
