"""A drawn board has the flaws that it says it has."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from visiontune.boards import LABELS, Board, draw_board, draw_pair

LACKS_COPPER = {"open", "mousebite", "pin-hole"}


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Board, NDArray[np.uint8]]]:
    rng = np.random.default_rng(7)
    return [draw_pair(rng, flaws=20) for _ in range(12)]


def test_the_same_seed_draws_the_same_board_and_another_seed_another() -> None:
    first, again, other = (draw_board(np.random.default_rng(seed)) for seed in (5, 5, 6))
    for field, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(field, same)
    assert not np.array_equal(first.image, other.image)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), flaws=st.integers(0, 20))
def test_every_board_is_black_and_white_with_its_boxes_inside(seed: int, flaws: int) -> None:
    board, template = draw_pair(np.random.default_rng(seed), flaws=flaws)
    for image in (board.image, template):
        assert image.shape == (640, 640, 3)
        assert image.dtype == np.uint8
        assert set(np.unique(image)) <= {0, 255}
        assert (image == image[..., :1]).all()
    assert board.boxes.shape == (len(board.labels), 4)
    assert board.boxes.dtype == np.float32
    assert len(board.labels) <= flaws
    assert ((board.boxes >= 0) & (board.boxes <= 640)).all()
    assert (board.boxes[:, 2:] > board.boxes[:, :2]).all()
    assert np.isin(board.labels, range(len(LABELS))).all()


def test_all_that_differs_from_the_flawless_board_lies_in_the_boxes(
    pairs: list[tuple[Board, NDArray[np.uint8]]],
) -> None:
    for board, template in pairs:
        changed = (board.image != template).any(axis=2)
        assert changed.any()
        for x1, y1, x2, y2 in board.boxes.astype(int):
            changed[y1:y2, x1:x2] = False
        assert not changed.any()


def test_each_box_surrounds_its_flaw_with_the_margin(
    pairs: list[tuple[Board, NDArray[np.uint8]]],
) -> None:
    for board, template in pairs:
        changed = (board.image != template).any(axis=2)
        for x1, y1, x2, y2 in board.boxes.astype(int):
            rows, columns = np.nonzero(changed[y1:y2, x1:x2])
            low = np.array([x1 + columns.min() - 9, y1 + rows.min() - 9])
            high = np.array([x1 + columns.max() + 10, y1 + rows.max() + 10])
            assert low.clip(min=0).tolist() == [x1, y1]
            assert high.clip(max=640).tolist() == [x2, y2]


def test_no_box_overlaps_another(pairs: list[tuple[Board, NDArray[np.uint8]]]) -> None:
    for board, _ in pairs:
        covered = np.zeros((640, 640), int)
        for x1, y1, x2, y2 in board.boxes.astype(int):
            covered[y1:y2, x1:x2] += 1
        assert covered.max() == 1


def test_a_flaw_adds_or_takes_copper_as_its_name_says(
    pairs: list[tuple[Board, NDArray[np.uint8]]],
) -> None:
    seen = set()
    for board, template in pairs:
        for (x1, y1, x2, y2), label in zip(board.boxes.astype(int), board.labels, strict=True):
            window = (slice(y1, y2), slice(x1, x2), 0)
            now, before = board.image[window], template[window]
            grey = set(now[now != before].tolist())
            assert grey == ({255} if LABELS[label] in LACKS_COPPER else {0})
            seen.add(LABELS[label])
    assert seen == set(LABELS)


@pytest.mark.parametrize(
    ("label", "touched"),
    [
        ("copper", lambda n: n == 0),
        ("pin-hole", lambda n: n == 0),
        ("spur", lambda n: n == 1),
        ("mousebite", lambda n: n == 1),
        ("short", lambda n: n >= 2),
        ("open", lambda n: n >= 2),
    ],
)
def test_a_flaw_touches_as_many_edges_as_its_name_says(
    pairs: list[tuple[Board, NDArray[np.uint8]]], label: str, touched: Callable[[int], bool]
) -> None:
    """Islands touch none, bumps one, bridges two or more."""
    counted = 0
    for board, template in pairs:
        for (x1, y1, x2, y2), kind in zip(board.boxes.astype(int), board.labels, strict=True):
            if LABELS[kind] != label:
                continue
            now, before = (image[y1:y2, x1:x2, 0] for image in (board.image, template))
            changed = (now != before).astype(np.uint8)
            same = (before == (255 if label in LACKS_COPPER else 0)).astype(np.uint8)
            ring = cv2.dilate(changed, np.ones((5, 5), np.uint8)) & same
            assert touched(cv2.connectedComponents(ring)[0] - 1)
            counted += 1
    assert counted


def test_boards_are_drawn_without_torch() -> None:
    code = "import sys, visiontune.boards; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
