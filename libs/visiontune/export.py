"""Writes a trained detector as ONNX."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from visiontune.detector import Detector, Exported
from visiontune.layouts import SIZE

_OPSET = 17


def export(detector: Detector, path: Path) -> None:
    """Write the detector with its decoding: (N, 1, 640, 640) to (N, 4 + classes, 6400) float32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # The newer exporter wants one package more and gives a larger graph of the same.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            Exported(detector, size=SIZE).eval(),
            (torch.zeros(2, 1, SIZE, SIZE),),
            str(path),
            dynamo=False,
            opset_version=_OPSET,
            input_names=["images"],
            output_names=["detections"],
            dynamic_axes={"images": {0: "batch"}, "detections": {0: "batch"}},
        )
