"""Boards in the form of the DeepPCB data set are read and measured."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from visiontune.boards import LABELS, draw_board
from visiontune.evaluate_boards import main, read_boards

MODEL = Path(__file__).parents[2] / "models" / "board-defects"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(11)
    annotations = {}
    for stem in ("00041001", "00041000"):
        board = draw_board(rng, flaws=12)
        cv2.imwrite(str(tmp_path / "images" / f"{stem}.png"), board.image)
        flaws = zip(board.boxes.astype(int).tolist(), board.labels, strict=True)
        annotations[stem] = [[*box, LABELS[label]] for box, label in flaws]
    (tmp_path / "annotations.json").write_text(json.dumps(annotations))
    return tmp_path


def test_boards_are_read_with_their_flaws(folder: Path) -> None:
    rng = np.random.default_rng(11)
    drawn = [draw_board(rng, flaws=12) for _ in range(2)]
    for (image, marked), board in zip(read_boards(folder), reversed(drawn), strict=True):
        np.testing.assert_array_equal(image, board.image[..., 0])
        np.testing.assert_array_equal(marked.boxes, board.boxes)
        np.testing.assert_array_equal(marked.labels, board.labels)


def test_an_image_that_is_missing_is_named(folder: Path) -> None:
    (folder / "images" / "00041001.png").unlink()
    with pytest.raises(FileNotFoundError, match="00041001"):
        list(read_boards(folder))


def test_the_command_prints_each_label_and_the_mean(folder: Path) -> None:
    app = typer.Typer()
    app.command()(main)
    told = CliRunner().invoke(app, ["--images", str(folder), "--model", str(MODEL)])
    assert told.exit_code == 0
    lines = [line.split() for line in told.stdout.splitlines()]
    assert [name for name, _ in lines] == [*LABELS, "mean"]
    assert float(lines[-1][1]) > 0.8
