"""Anomalies: how unusual an image is, and where."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import cv2
import numpy as np
from pydantic import FiniteFloat

from services.postprocess.decoders.maps import Original, require_map, sample
from services.postprocess.decoders.protocol import (
    Array,
    Arrays,
    Parameters,
    misfit,
    read_parameters,
    require_finite,
)
from services.postprocess.features import FeaturesError
from visionmesh import rle
from visionmesh.contracts import Answer, ClassScore, Heatmap, Params, Placement, Region
from visionmesh.models.spec import ModelSpec

_STEPS = 65535
"""Between the least and the greatest value of a map in the features: finer than any score told."""

_MOST_PIXELS = 1024
"""Along each side of a heat-map: more would show no more, for networks' maps are coarser."""

_PLANE = 2
"""Dimensions: rows and columns."""

_SLACK = 1e-3
"""What rounding in half precision may add to 1."""

_DECIMALS = 6


class _Parameters(Parameters):
    score: str | None = None
    """The name of the output with the image's score; by default the one with a single value."""
    threshold: FiniteFloat = 0.5
    """From this value on a place, or an image, is anomalous."""
    low: FiniteFloat | None = None
    """The value of what is as normal as can be, and that of what is surely anomalous. Needed if the
    network's values are not between 0 and 1."""
    high: FiniteFloat | None = None


class Anomaly:
    """Decodes (h, w) or (1, h, w) float, larger is more unusual, and at will a score of the image.

    Without an output for the score, it is the greatest value of the map within the image. The score
    that is told is 0 at ``low``, a half at the ``threshold`` and 1 at ``high``, linear between. The
    labels are that of normal images and that of anomalous ones.
    """

    floor = 0.0

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._own = read_parameters(_Parameters, spec)
        self._low = 0.0 if self._own.low is None else self._own.low
        self._high = 1.0 if self._own.high is None else self._own.high
        if not self._low < self._own.threshold < self._high:
            raise ValueError(
                f"low {self._low:g}, threshold {self._own.threshold:g} and high {self._high:g} "
                "must ascend"
            )
        if len(spec.labels) not in {0, 2}:
            raise ValueError("anomaly has two labels: of what is normal, and of what is not")
        self._normal, self._anomalous = spec.labels or ("normal", "anomalous")

    def reduce(self, outputs: Arrays) -> dict[str, Array]:
        plane = self._map(outputs)
        score = self._score(outputs)
        for values in (plane, score):
            require_finite(values)
            self._check_range(values)
        low, high = plane.min(), plane.max()
        step = (high - low) / _STEPS or 1.0
        return {
            "map": np.rint((plane - low) / step).astype(np.uint16),
            "range": np.array((low, step), np.float64),
            "score": score,
        }

    def answer(
        self, features: Arrays, params: Params, placement: Placement, width: int, height: int
    ) -> Answer:
        """Return both classes, what lies over the threshold, and the heat-map; ``params`` change
        nothing."""
        steps, low, step, score = _read(features)
        original = Original(self._spec.input, placement, width, height)
        value = float(score[0]) if len(score) else original.cells(steps).max() * step + low
        cut = (self._own.threshold - low) / step
        return Answer(
            classes=self._classes(value),
            regions=self._regions(steps, cut, original),
            heatmap=self._heatmap(steps * np.float32(step) + np.float32(low), original),
        )

    def _map(self, outputs: Arrays) -> Array:
        """Return the map (h, w) float64."""
        found = {name: array for name, array in _floats(outputs) if array.ndim >= _PLANE}
        name = self._own.tensor
        if name is None and len(found) == 1:
            (name,) = found
        if name is None or name not in outputs:
            raise misfit(
                f"anomaly wants a map (h, w), and sees {_shapes(outputs)}: "
                "let output.tensor name it"
            )
        plane = outputs[name]
        if plane.ndim < _PLANE or plane.size != math.prod(plane.shape[-2:]) or not plane.size:
            raise misfit(f"anomaly wants a map (h, w) or (1, h, w), and sees {plane.shape}")
        return plane.reshape(plane.shape[-2:]).astype(np.float64)

    def _score(self, outputs: Arrays) -> Array:
        """Return the score of the image (1,) float64, or (0,) if no output has one."""
        name = self._own.score
        if name is None:
            scores = [array for _, array in _floats(outputs) if array.ndim < _PLANE]
        else:
            scores = [outputs[name]] if name in outputs else []
        if name is not None and [array.size for array in scores] != [1]:
            raise misfit(f"anomaly wants one value called {name!r}, and sees {_shapes(outputs)}")
        alone = len(scores) == 1 and scores[0].size == 1
        return scores[0].reshape(1).astype(np.float64) if alone else np.empty(0)

    def _check_range(self, values: Array) -> None:
        least, greatest = values.min(initial=self._low), values.max(initial=self._high)
        below = self._own.low is None and least < self._low - _SLACK
        if below or (self._own.high is None and greatest > self._high + _SLACK):
            raise misfit(
                f"the values run from {least:.3g} to {greatest:.3g}, not from 0 to 1: let "
                "output.low, output.threshold and output.high say what is normal and what is not"
            )

    def _classes(self, value: float) -> tuple[ClassScore, ...]:
        marks = (self._low, self._own.threshold, self._high)
        score = float(np.interp(value, marks, (0, 0.5, 1)).round(_DECIMALS))
        anomalous = ClassScore(label=self._anomalous, score=score)
        normal = ClassScore(label=self._normal, score=round(1 - score, _DECIMALS))
        return (anomalous, normal) if value >= self._own.threshold else (normal, anomalous)

    def _regions(self, steps: Array, cut: float, original: Original) -> tuple[Region, ...]:
        down, across = original.axes(steps.shape)
        mask = np.zeros((original.height, original.width), bool)
        for rows in down.strips(len(across.low)):
            mask[rows.first : rows.last, across.first : across.last] = (
                sample(steps, rows, across) >= cut
            )
        share = round(float(mask.mean()), _DECIMALS)
        found = Region(label=self._anomalous, share=share, mask=rle.encode(mask))
        return (found,) if mask.any() else ()

    def _heatmap(self, plane: Array, original: Original) -> Heatmap:
        view = original.as_fine_as(plane.shape, most=_MOST_PIXELS)
        down, across = view.axes(plane.shape)
        grey = np.zeros((view.height, view.width), np.uint8)
        values = (sample(plane, down, across) - self._low) * (255 / (self._high - self._low))
        grey[down.first : down.last, across.first : across.last] = np.rint(values.clip(0, 255))
        _, encoded = cv2.imencode(".png", grey)
        png = encoded.tobytes()
        return Heatmap(
            sha256=hashlib.sha256(png).hexdigest(),
            width=view.width,
            height=view.height,
            low=self._low,
            high=self._high,
            png=png,
        )


def _floats(outputs: Arrays) -> Iterator[tuple[str, Array]]:
    return ((name, array) for name, array in outputs.items() if array.dtype.kind == "f")


def _shapes(outputs: Arrays) -> str:
    return ", ".join(f"{name} {array.shape}" for name, array in outputs.items()) or "nothing"


def _read(features: Arrays) -> tuple[Array, float, float, Array]:
    """Return the map in steps, the value of step 0, the size of a step, and the score if any."""
    try:
        steps, scale, score = features["map"], features["range"], features["score"]
    except KeyError as error:
        raise FeaturesError(f"an anomaly's features have {error}") from error
    require_map(steps, "u", _PLANE)
    numbers = np.concatenate((scale.reshape(-1), score.reshape(-1)))
    whole = scale.shape == (2,) and score.ndim == 1 and scale[1] > 0
    if not whole or not np.isfinite(numbers).all():
        raise FeaturesError("the features are not those of an anomaly")
    return steps, float(scale[0]), float(scale[1]), score
