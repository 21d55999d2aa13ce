"""Models whose networks give fixed boxes, and what `verify` says of their complete files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.completed import images, png
from tests.visionmesh.models.importing.heads import CELLS, SIDE, Head, boxes, logits, network, save
from visionmesh.contracts import Detection
from visionmesh.models.completing import Part, complete_checks
from visionmesh.models.folder import ModelFolder, load_folder
from visionmesh.models.pictures import Picture
from visionmesh.models.trial import drawn
from visionmesh.workbench import Workbench

Array = np.ndarray[Any, Any]

Outputs = Array | dict[str, Array]

RNG = np.random.default_rng(11)
LABELS = ["ant", "bee", "cat"]
BOTH = (Part.PREPROCESS, Part.POSTPROCESS)


def columns(count: int, *, unit: bool = False, objectness: bool = True) -> Array:
    """Return (count, 4 + objectness + 3): every second box is another one, moved a little."""
    found = boxes(count, unit=unit)
    found[1::2] = found[::2] + RNG.normal(0, 0.02, (count // 2, 4)) * (1 if unit else SIDE)
    found[:, 2:] = np.abs(found[:, 2:])
    scores = RNG.uniform(0.05, 0.95, (count, 3 + objectness))
    return np.concatenate((found, scores), axis=1).astype(np.float32)


def raw() -> Array:
    scores = RNG.uniform(0.3, 0.95, (CELLS, 4))
    offsets = RNG.uniform(0, 1, (CELLS, 2))
    return np.concatenate((offsets, logits(CELLS, 2) / 2, scores), axis=1).astype(np.float32)


def pairs(count: int, scores: int, *, form: str = "corners") -> Outputs:
    """Return boxes and scores of their own: every second box is another one, moved a little."""
    found = boxes(count, unit=True, form=form)
    found[1::2] = found[::2] + RNG.normal(0, 0.01, (count // 2, 4))
    low, high = np.minimum(found[:, :2], found[:, 2:]), np.maximum(found[:, :2], found[:, 2:])
    if form == "corners":
        found = np.concatenate((low, high), axis=1)
    told = RNG.uniform(0.02, 0.95, (count, scores))
    return {"scores": told.astype(np.float32), "boxes": found.astype(np.float32)}


def offsets(count: int) -> Outputs:
    moves = RNG.normal(0, 1, (count, 1, 4))
    return {"loc": moves.astype(np.float32), "conf": logits(count, 4)}


PRIORS = {
    "encoding": "offsets",
    "priors": [{"stride": 8, "sizes": [[12, 9], [20, 25]]}],
    "activation": "softmax",
}
DETECTORS: dict[str, tuple[Outputs, dict[str, Any]]] = {
    "ssd": (pairs(120, 3), {}),
    "ssd with a background": (
        pairs(120, 4, form="centers"),
        {"encoding": "centers", "background": "last", "order": "yx"},
    ),
    "ssd of priors": (offsets(2 * (SIDE // 8) ** 2), PRIORS),
    "detr": (
        {"logits": logits(60, 4), "boxes": pairs(60, 1, form="centers")["boxes"]},
        {"activation": "softmax"},
    ),
    "detr of classes": (
        {"logits": logits(60, 3), "boxes": pairs(60, 1, form="centers")["boxes"]},
        {},
    ),
    "detr in one": (
        np.concatenate((boxes(60), columns(60)[:, 4:7]), axis=1).astype(np.float32),
        {"normalized": False},
    ),
    "yolov8": (columns(84, objectness=False).T, {}),
    "yolov8 in parts": (columns(84, unit=True, objectness=False).T, {"normalized": True}),
    "yolov5": (columns(252), {}),
    "yolox": (raw(), {}),
}


def folder(
    root: Path,
    outputs: Outputs,
    decoder: str,
    *,
    batch: int | str = "n",
    task: str = "detection",
    input: dict[str, Any] | None = None,
    spec: dict[str, Any] | None = None,
    **output: Any,
) -> ModelFolder:
    """Make a folder whose network gives ``outputs``, a little changed by the image."""
    named = outputs if isinstance(outputs, dict) else {"output": outputs}
    heads = {name: Head(values, 0.02) for name, values in named.items()}
    save(network(heads, shape=(batch, 3, SIDE, SIDE)), root / "1" / "model.onnx")
    description = {
        "task": task,
        "input": {
            "width": SIDE,
            "height": SIDE,
            "scale": 1 / 255,
            "mean": [0.4, 0.5, 0.6],
            "std": [0.2, 0.25, 0.3],
        }
        | (input or {}),
        "output": {"decoder": decoder, **output},
        "labels": LABELS,
    } | (spec or {})
    (root / "model.yaml").write_text(yaml.safe_dump(description))
    return load_folder(root)


def checks(
    model: ModelFolder, count: int = 4, *, sizes: list[tuple[int, int]] | None = None
) -> list[tuple[str, bool]]:
    bench = Workbench(model.spec)
    engine = bench.open(model.versions[1])
    pictures = [Picture(drawn(model.spec.input, seed), None) for seed in range(count)]
    if sizes is not None:
        pictures = [Picture(png(images(1, *size)[0]), None) for size in sizes]
    found = complete_checks(bench, engine, model.versions[1], pictures)
    return [(check.name, check.passed) for check in found]


def assert_same(
    detections: tuple[Detection, ...],
    found: dict[str, Array],
    number: int,
    *,
    sides: tuple[int, int] = (SIDE, SIDE),
) -> None:
    """The mesh cuts boxes at the image's edges, and the file leaves them as they are."""
    own = found["batch"] == number
    cut = found["boxes"][own].clip(0, sides * 2).round(2)
    inside = (cut[:, 2:] > cut[:, :2]).all(axis=1)
    assert len(detections) == inside.sum()
    wanted = np.array([one.box for one in detections]).reshape(-1, 4)
    np.testing.assert_allclose(cut[inside], wanted, atol=0.02)
    scores = found["scores"][own][inside]
    np.testing.assert_allclose(scores, [one.score for one in detections], atol=2e-6)
    labels = [LABELS[index] for index in found["classes"][own][inside]]
    assert labels == [one.label for one in detections]
