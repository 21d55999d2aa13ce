"""Measures the model that finds flaws on real boards in the form of the DeepPCB data set.

Run with ``python -m visiontune.evaluate_boards --images DIR``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

from visiontune.boards import LABELS
from visiontune.evaluation import Marked
from visiontune.inspection import Inspector, as_table, inspect


def read_boards(folder: Path) -> Iterator[tuple[NDArray[np.uint8], Marked]]:
    """Yield the images, (H, W) uint8, and the flaws of ``annotations.json``.

    It has for each stem of a file ``images/<stem>.png`` a list of ``[x1, y1, x2, y2, label]``.

    Raises
    ------
    FileNotFoundError
        If an image is missing or cannot be read.
    """
    annotations = json.loads((folder / "annotations.json").read_bytes())
    for stem, flaws in sorted(annotations.items()):
        path = folder / "images" / f"{stem}.png"
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if image is None:
            raise FileNotFoundError(path)
        boxes = np.array([flaw[:4] for flaw in flaws], np.float64).reshape(-1, 4)
        yield image, Marked(boxes, np.array([LABELS.index(flaw[4]) for flaw in flaws], np.intp))


def main(
    images: Annotated[Path, typer.Option(metavar="DIR", help="Has images/ and annotations.json.")],
    model: Annotated[Path, typer.Option(metavar="DIR", help="The model's folder.")] = Path(
        "models/board-defects"
    ),
    iou: Annotated[float, typer.Option(min=0, max=1, help="Overlap that counts as right.")] = 0.33,
) -> None:
    """Print the average precision by label, and their mean."""
    inspector = Inspector(model / "1" / "model.onnx")
    typer.echo(as_table(inspect(inspector, read_boards(images), iou=iou)))


if __name__ == "__main__":
    typer.run(main)
