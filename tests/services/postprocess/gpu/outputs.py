"""The same boxes as other networks say them."""

from __future__ import annotations

import numpy as np

from bench.gpu.crowds import Float


def with_objectness(random: np.random.Generator, output: Float) -> Float:
    """Return (A, 5 + C) with the same boxes and classes."""
    objectness = random.integers(0, 65, (1, output.shape[1])) / np.float32(64)
    return np.ascontiguousarray(np.concatenate((output[:4], objectness, output[4:])).T)


def as_offsets(output: Float) -> Float:
    """Return (A, 5 + C) with boxes such as YOLOX says them: offsets and logarithms of sizes."""
    offsets = output.copy()
    offsets[:, :2] = output[:, :2] / 640
    offsets[:, 2:4] = np.log(output[:, 2:4] / 32)
    return offsets
