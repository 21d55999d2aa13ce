"""Networks with faults, pictures for them, and what was found."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx

from visionmesh.models.artifacts import file_sha256
from visionmesh.models.variants import Artifact, Precision
from visionmesh.models.verifying import Verification


def add_operator(folder: Path, *nodes: onnx.NodeProto, file: str = "model.onnx") -> Path:
    """Put ``nodes`` behind the scores of the network: from `scores` to `changed`."""
    model = onnx.load(folder / "1" / file)
    model.graph.node.extend(nodes)
    model.graph.output[0].name = "changed"
    onnx.save(model, folder / "1" / file)
    return folder


def save_pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        pixels = random.integers(0, 256, (1, 1, 3)) + random.integers(-9, 9, (8, 6, 3))
        cv2.imwrite(str(folder / f"{number}.png"), pixels.clip(0, 255))
    return folder


def artifact(folder: Path, name: str) -> Artifact:
    file = folder / "1" / name
    return Artifact(
        file=name,
        precision=Precision.FP16,
        scheme="fp16",
        sha256=file_sha256(file),
        size_bytes=file.stat().st_size,
    )


def failures(found: Verification) -> list[tuple[str, str]]:
    return [
        (network.file, check.name)
        for network in found.networks
        for check in network.checks
        if not check.passed
    ]
