"""Makes the model that finds flaws on circuit boards.

Run with ``python -m visiontune.train_boards --out models/board-defects``.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer

from visiontune.boards import Board, draw_board
from visiontune.evaluation import Marked
from visiontune.export import export
from visiontune.inspection import Inspector, as_table, inspect
from visiontune.training import Plan, train

_CROWDED = 40
"""Flaws that are tried on a board to learn from: more than a real one has, to learn more of it."""
_UNSEEN = 200
"""Boards to measure on; their seeds are another stream than those to learn from."""
_SAMPLES = 6
"""Of them, kept as files for who wants to try the model."""
_IOU = 0.33
"""Overlap at which DeepPCB counts a detection as right."""


def draw(index: int, *, seed: int, flaws: int | None = None) -> Board:
    """Return the board of this seed and index with one channel: its image is (640, 640) uint8."""
    cv2.setNumThreads(1)
    board = draw_board(np.random.default_rng([seed, index]), flaws=flaws)
    return board._replace(image=np.ascontiguousarray(board.image[..., 0]))


def save_samples(boards: list[Board], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, board in enumerate(boards, start=1):
        cv2.imwrite(str(folder / f"board-{number}.png"), board.image)


def main(
    out: Annotated[Path, typer.Option(metavar="DIR", help="The model's folder.")],
    boards: Annotated[
        int, typer.Option(min=8, help="How many boards to draw and learn from.")
    ] = 1500,
    epochs: Annotated[int, typer.Option(min=1, help="How often to see each.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other boards.")] = 0,
) -> None:
    """Draw boards, learn from them, write 1/model.onnx, and measure it on boards unseen."""
    begun = time.monotonic()
    cores = len(os.sched_getaffinity(0))

    def told(what: str) -> None:
        typer.echo(f"{time.monotonic() - begun:6.0f} s  {what}")

    with ProcessPoolExecutor(cores) as pool:
        crowded = partial(draw, seed=seed, flaws=_CROWDED)
        seen = list(pool.map(crowded, range(boards), chunksize=16))
        unseen = list(pool.map(partial(draw, seed=seed + 1), range(_UNSEEN), chunksize=16))
    told(f"{boards} boards drawn")
    detector = train(
        seen,
        plan=Plan(epochs=epochs),
        seed=seed,
        report=lambda epoch, loss: told(f"epoch {epoch} of {epochs}: loss {loss:.3f}"),
    )
    path = out / "1" / "model.onnx"
    export(detector, path)
    told(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    save_samples(unseen[:_SAMPLES], out / "samples")
    pairs = ((board.image, Marked(board.boxes, board.labels)) for board in unseen)
    typer.echo(as_table(inspect(Inspector(path, threads=cores), pairs, iou=_IOU)))


if __name__ == "__main__":
    typer.run(main)
