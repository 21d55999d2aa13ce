"""YOLOv8-seg and its successors: boxes, and a mask in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from services.postprocess.decoders.candidates import (
    BOX,
    Chosen,
    Detector,
    SizedParameters,
    corners,
    frame,
    to_features,
)
from services.postprocess.decoders.maps import Axis, Original, require_map, sample
from services.postprocess.decoders.protocol import (
    Array,
    Arrays,
    misfit,
    pick,
    read_parameters,
    require_finite,
)
from services.postprocess.decoders.yolov8 import surest
from services.postprocess.features import FeaturesError
from visionmesh import rle
from visionmesh.contracts import Placement
from visionmesh.models.spec import ModelSpec

_PROTOTYPES = 3
"""Dimensions."""


class _Parameters(SizedParameters):
    prototypes: str | None = None
    """The name of the prototypes' output; by default the one with three dimensions."""


class YoloV8Seg(Detector):
    """Decodes (4 + C + M, A) float boxes and (M, h, w) float prototypes of masks.

    A box has M coefficients behind its class scores; their sum of the prototypes, through a
    sigmoid, says how likely a place belongs to the object. The mask is where that is over a half
    within the box, interpolated to the original's pixels (Bolya et al., YOLACT, arXiv:1904.02689).
    """

    def __init__(self, spec: ModelSpec) -> None:
        parameters = read_parameters(_Parameters, spec)
        super().__init__(spec, parameters, columns=("coefficients",))
        self._prototypes = parameters.prototypes
        self._scale = frame(spec.input, normalized=parameters.normalized)

    def reduce(self, outputs: Arrays) -> dict[str, Array]:
        output, prototypes = self._pick(outputs)
        found = surest(output, self.floor, extra=len(prototypes))
        require_finite(prototypes)
        boxes = found.values[:BOX].T * self._scale
        features = to_features(
            corners(boxes[:, :2], boxes[:, 2:]),
            found.scores,
            found.classes,
            coefficients=found.values[-len(prototypes) :].T,
        )
        return features | _quantise(prototypes if len(boxes) else prototypes[:, :1, :1])

    def details(
        self, features: Arrays, chosen: Chosen, placement: Placement, width: int, height: int
    ) -> Mapping[str, Sequence[Any]]:
        prototypes, ranges = self._read(features)
        down, across = Original(self._spec.input, placement, width, height).axes(prototypes.shape)
        # The steps of the quantised prototypes become part of the coefficients.
        coefficients = features["coefficients"][chosen.rows]
        base, weights = coefficients @ ranges[:, 0], coefficients * ranges[:, 1]
        masks = []
        for index, (x1, y1, x2, y2) in enumerate(np.ceil(chosen.boxes - 0.5).astype(int).tolist()):
            rows, columns = down.part(y1, y2), across.part(x1, x2)
            mask = _mask(prototypes, weights[index], base[index], rows, columns)
            corner = columns.first, rows.first
            masks.append(rle.encode(mask, size=(height, width), corner=corner))
        return {"mask": masks}

    def _pick(self, outputs: Arrays) -> tuple[Array, Array]:
        """Return the boxes (4 + C + M, A) and the prototypes (M, h, w)."""
        maps = [name for name, array in outputs.items() if array.ndim == _PROTOTYPES]
        name = self._prototypes or (maps[0] if len(maps) == 1 else None)
        others = {other: array for other, array in outputs.items() if other != name}
        if name is None or name not in outputs or not others:
            raise misfit(
                f"yolov8_seg wants boxes and prototypes, and sees {', '.join(outputs) or 'nothing'}"
                ": let output.tensor and output.prototypes name them"
            )
        output, prototypes = pick(others, self._tensor), outputs[name]
        if (
            (output.ndim, prototypes.ndim) != (_PROTOTYPES - 1, _PROTOTYPES)
            or not prototypes.size
            or not self._fits(output.shape[0] - BOX - len(prototypes))
        ):
            raise misfit(
                f"yolov8_seg wants ({BOX} + {self._class_count} + M values, A boxes) and (M, h, w) "
                f"prototypes for these labels, and sees {output.shape} and {prototypes.shape}"
            )
        return output, prototypes

    def _read(self, features: Arrays) -> tuple[Array, Array]:
        try:
            prototypes, ranges = features["prototypes"], features["ranges"]
        except KeyError as error:
            raise FeaturesError(f"masks' features have {error}") from error
        require_map(prototypes, "u", _PROTOTYPES)
        count = features["coefficients"].shape[1]
        if len(prototypes) != count or ranges.shape != (count, 2):
            raise FeaturesError("the features do not tell as much of each prototype")
        return prototypes, ranges


def _quantise(prototypes: Array) -> dict[str, Array]:
    """Return the prototypes in 256 steps each: a quarter of the room, and edges stay."""
    values = prototypes.astype(np.float32, copy=False)
    low = values.min(axis=(1, 2))
    step = np.maximum((values.max(axis=(1, 2)) - low) / 255, np.finfo(np.float32).tiny)
    steps = (values - low[:, None, None]) / step[:, None, None]
    return {
        "prototypes": np.rint(steps).astype(np.uint8),
        "ranges": np.stack((low, step), axis=1).astype(np.float32),
    }


def _mask(prototypes: Array, weights: Array, base: float, down: Axis, across: Axis) -> Array:
    """Return where the weighted sum of the prototypes is over 0, the logit of a half."""
    mask = np.zeros((len(down.low), len(across.low)), bool)
    if not mask.size:
        return mask
    (rows, down), (columns, across) = down.cut(), across.cut()
    cells = prototypes[:, rows, columns].astype(np.float32)
    plane = np.tensordot(weights, cells, axes=1) + base
    for strip in down.strips(mask.shape[1]):
        mask[strip.first - down.first : strip.last - down.first] = sample(plane, strip, across) > 0
    return mask
