"""What the outputs of a network are, by their shapes, names and values."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from visionmesh.models.importing import boxes, grids, wholes
from visionmesh.models.importing.seen import Guess, Seen
from visionmesh.models.spec import Task

Recogniser = Callable[[Seen], Guess | None]

RECOGNISERS: Sequence[Recogniser] = (
    grids.yolov8,
    grids.obb,
    grids.yolov5,
    grids.yolox,
    grids.yolov8_seg,
    boxes.end2end,
    boxes.end2end_columns,
    boxes.ssd,
    boxes.detr,
    wholes.softmax,
    wholes.embedding,
    wholes.semantic,
    wholes.anomaly,
)
"""Each looks for one form of outputs; at most one of a task finds its own."""


def guesses(seen: Seen, *, task: Task | None, decoder: str | None) -> list[Guess]:
    """Return every known way to read the outputs, of this task and decoder if these are named."""
    found = (recognise(seen) for recognise in RECOGNISERS)
    return [
        guess
        for guess in found
        if guess is not None
        and (task is None or guess.task is task)
        and (decoder is None or guess.decoder == decoder)
    ]
