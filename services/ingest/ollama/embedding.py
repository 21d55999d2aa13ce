"""Embeddings of images as those of texts are asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from visionmesh.contracts import Result
from visionmesh.errors import Code, Reject


def vector(result: Result) -> Sequence[float]:
    """Return the embedding of an image; raise `Reject` if the model makes none."""
    if result.embedding is None:
        raise Reject(
            Code.INVALID_REQUEST,
            f"model {result.model!r} does not support embeddings: its task is another one.",
        )
    return result.embedding


def unit(values: Sequence[float], dimensions: int | None = None) -> list[float]:
    """Return the first ``dimensions`` of ``values``, scaled to the length 1."""
    cut = np.asarray(values[:dimensions], np.float64)
    length = float(np.linalg.norm(cut))
    scaled: list[float] = (cut / length if length else cut).tolist()
    return scaled
