"""A complete file says of pixels what the mesh says of them, with ONNX Runtime alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import yaml

from tests.visionmesh.models.importing.heads import CELLS, SIDE, Head, boxes, logits, network, save
from visionmesh.contracts import Params
from visionmesh.models.completing import Part, complete
from visionmesh.models.folder import ModelFolder, load_folder
from visionmesh.workbench import Workbench

Array = np.ndarray[Any, Any]

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


DETECTORS: dict[str, tuple[Array, dict[str, Any]]] = {
    "yolov8": (columns(84, objectness=False).T, {}),
    "yolov8 in parts": (columns(84, unit=True, objectness=False).T, {"normalized": True}),
    "yolov5": (columns(252), {}),
    "yolox": (raw(), {}),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "agnostic": {"nms": "agnostic"},
    "none": {"nms": "none", "max_detections": 9},
    "few": {"max_detections": 5},
    "strict with bees": {"class_confidence": {"bee": 0.8}, "iou": 0.2},
    "sure of nothing": {"confidence": 1.0},
}


def folder(
    root: Path,
    outputs: Array | dict[str, Head],
    decoder: str,
    *,
    batch: int | str = "n",
    task: str = "detection",
    input: dict[str, Any] | None = None,
    **output: Any,
) -> ModelFolder:
    """Make a model's folder with a network that gives ``outputs``, a little changed by the image."""
    heads = outputs if isinstance(outputs, dict) else {"output": Head(outputs, 0.02)}
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
    }
    (root / "model.yaml").write_text(yaml.safe_dump(description))
    return load_folder(root)


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


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("count", [1, 3])
def test_boxes_are_those_of_the_mesh(
    tmp_path: Path, detector: str, settings: dict[str, Any], count: int
) -> None:
    outputs, parameters = DETECTORS[detector]
    model = folder(tmp_path, outputs, detector.split(maxsplit=1)[0], **parameters, **settings)
    given = images(count)
    found = run(complete(model, BOTH).file, given)
    assert found["batch"].tolist() == sorted(found["batch"])
    bench = Workbench(model.spec)
    engine = bench.open(model.versions[1])
    for number, image in enumerate(given):
        sample = bench.sample(png(image))
        detections = bench.read(engine.run([sample.pixels]), 0, sample, Params()).detections or ()
        # The mesh cuts boxes at the image's edges, and the file leaves them as they are.
        own = found["batch"] == number
        cut = found["boxes"][own].clip(0, SIDE).round(2)
        inside = (cut[:, 2:] > cut[:, :2]).all(axis=1)
        assert (len(detections) > 0) == (settings.get("confidence") != 1.0)
        assert len(detections) == inside.sum()
        wanted = np.array([one.box for one in detections]).reshape(-1, 4)
        np.testing.assert_allclose(cut[inside], wanted, atol=0.02)
        scores = found["scores"][own][inside]
        np.testing.assert_allclose(scores, [one.score for one in detections], atol=2e-6)
        labels = [LABELS[index] for index in found["classes"][own][inside]]
        assert labels == [one.label for one in detections]
