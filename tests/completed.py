"""Images for complete files, and what these make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime

from tests.visionmesh.models.importing.heads import SIDE

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(12)


def images(count: int, height: int = SIDE, width: int = SIDE) -> Array:
    """Return ``(count, height, width, 3) uint8`` of different brightness."""
    noise = RNG.integers(0, 200, (count, height, width, 3))
    return (noise + np.arange(count).reshape(-1, 1, 1, 1) * 15).astype(np.uint8)


def run(file: Path, given: Array) -> dict[str, Array]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: given}), strict=True))


def png(image: Array) -> bytes:
    _, encoded = cv2.imencode(".png", image[:, :, ::-1])
    return encoded.tobytes()
