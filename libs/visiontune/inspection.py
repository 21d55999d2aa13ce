"""Runs an exported detector on boards, and measures it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from visiontune.boards import LABELS
from visiontune.evaluation import Found, Marked, average_precisions

_LEAST_SCORE = 0.02
"""Of what is counted: the average precision asks for the unsure detections too."""
_GREATEST_OVERLAP = 0.45
"""Of two detections of one class."""


class Inspector:
    """Finds flaws with the ONNX file at ``path``, on ``threads`` threads."""

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name

    def __call__(self, image: NDArray[np.uint8]) -> Found:
        """Return the flaws on an image, (640, 640) uint8."""
        pixels = image[None, None].astype(np.float32) / 255
        return decode(self._session.run(None, {self._input: pixels})[0][0])


def decode(output: NDArray[np.float32]) -> Found:
    """Return the best of overlapping detections from one image's output, (4 + classes, cells)."""
    scores, labels = output[4:].max(axis=0), output[4:].argmax(axis=0)
    sure = np.flatnonzero(scores > _LEAST_SCORE)
    scores, labels = scores[sure], labels[sure]
    centres, sizes = output[:2, sure].T, output[2:4, sure].T
    corners = np.concatenate([centres - sizes / 2, sizes], axis=1)
    kept = np.array(
        cv2.dnn.NMSBoxesBatched(
            corners.tolist(), scores.tolist(), labels.tolist(), _LEAST_SCORE, _GREATEST_OVERLAP
        ),
        np.intp,
    )
    boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)
    return Found(boxes[kept], labels[kept], scores[kept])


def inspect(
    inspector: Inspector, boards: Iterable[tuple[NDArray[np.uint8], Marked]], *, iou: float
) -> NDArray[np.float64]:
    """Return the average precision by label, (6,), on boards: images, (640, 640) uint8."""
    found, marked = [], []
    for image, truth in boards:
        found.append(inspector(image))
        marked.append(truth)
    return average_precisions(found, marked, classes=len(LABELS), iou=iou)


def as_table(precisions: NDArray[np.float64]) -> str:
    """Return one line for each label and one for their mean."""
    rows = [*zip(LABELS, precisions.tolist(), strict=True), ("mean", float(np.nanmean(precisions)))]
    return "\n".join(f"{name:<10} {value:.3f}" for name, value in rows)
