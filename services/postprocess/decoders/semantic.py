"""Semantic segmentation: each pixel of the original belongs to one class."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from pydantic import FiniteFloat

from services.postprocess.decoders.maps import Axis, Original, require_map, sample
from services.postprocess.decoders.protocol import (
    Array,
    Arrays,
    Parameters,
    label,
    misfit,
    pick,
    read_parameters,
    require_finite,
)
from services.postprocess.features import FeaturesError
from visionmesh import rle
from visionmesh.contracts import Answer, Params, Placement, Region
from visionmesh.models.spec import ModelSpec

_MOST_VALUES = 4 << 20
"""Scores in the features. Where more classes share a large map, its cells are taken as they are."""

_UNLIKELY = -6e4
"""What half precision can still tell."""

_UNNAMED = 65535
"""Classes of a network without labels."""

_PLANE, _PLANES = 2, 3
"""Dimensions: rows and columns, and those with the classes."""

_DECIMALS = 6


class _Parameters(Parameters):
    channels: Literal["first", "last"] = "first"
    """Where the classes of a map with three dimensions are."""
    threshold: FiniteFloat = 0.0
    """Of a network with one plane: where that is larger lies the class. 0 suits logits, 0.5 what
    went through a sigmoid."""
    drop: tuple[str, ...] = ()
    """Labels that are not told, such as ``background``."""


class Semantic:
    """Decodes (C, h, w) float scores of classes, larger is likelier, or (h, w) classes.

    The scores are interpolated to the original's pixels, and the largest wins; a class that leads
    in no cell of the map is not told. A single plane (1, h, w) float says where the one label is,
    or the second of two. A map of classes, (h, w) or (1, h, w), is enlarged as it is.
    """

    floor = 0.0

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._own = read_parameters(_Parameters, spec)
        # A single label leaves the class before it without a name.
        self._names = ("", *spec.labels) if len(spec.labels) == 1 else spec.labels
        for dropped in self._own.drop:
            if dropped not in spec.labels:
                raise ValueError(f"drop names {dropped!r}, which is not among the labels")

    def reduce(self, outputs: Arrays) -> dict[str, Array]:
        output = pick(outputs, self._own.tensor)
        if output.dtype.kind in "biu" or output.ndim == _PLANE:
            return {"map": self._classes(output)}
        planes = self._planes(output)
        best, leader = _leading(planes)
        classes = np.unique(leader)
        if len(classes) == 1 or len(classes) * leader.size > _MOST_VALUES:
            return {"map": leader}
        margins = np.maximum(planes[classes] - best, _UNLIKELY)
        # Between cells of one leader that leader wins: what else is there says nothing, and in this
        # form it takes no room.
        plain = -(classes[:, None, None] != leader).astype(np.float32)
        return {
            "classes": classes,
            "margins": np.where(_contested(leader), margins, plain).astype(np.float16),
        }

    def answer(
        self, features: Arrays, params: Params, placement: Placement, width: int, height: int
    ) -> Answer:
        """Return the classes that are there, the largest first; ``params`` change nothing."""
        classes, maps = self._read(features)
        original = Original(self._spec.input, placement, width, height)
        down, across = original.axes(maps.shape)
        unseen = len(classes)
        pixels = np.full((height, width), unseen, np.min_scalar_type(unseen))
        for rows in down.strips(len(across.low)):
            part = pixels[rows.first : rows.last, across.first : across.last]
            if maps.ndim == _PLANE:
                part[:] = maps[rows.nearest][:, across.nearest]
            else:
                _decide(maps, rows, across, part)
        regions = [
            Region(label=name, share=round(area / pixels.size, _DECIMALS), mask=mask)
            for index, area, mask in rle.encode_classes(pixels)
            if index < unseen and (name := self._name(int(classes[index])))
        ]
        return Answer(regions=tuple(sorted(regions, key=lambda region: -region.share)))

    def _name(self, index: int) -> str:
        """Return the label of a class; nothing if it is not to be told."""
        name = label(self._names, index)
        return "" if name in self._own.drop else name

    def _classes(self, output: Array) -> Array:
        """Return a map of classes (h, w) uint16."""
        require_finite(output)
        plane = output[0] if output.shape[:-2] == (1,) else output
        if plane.ndim != _PLANE or not plane.size:
            raise misfit(f"semantic wants (C, h, w) scores or (h, w) classes, sees {output.shape}")
        most = len(self._names) or _UNNAMED
        if plane.min() < 0 or plane.max() >= most or (plane != np.rint(plane)).any():
            raise misfit(
                f"the map's values run from {plane.min():g} to {plane.max():g}, "
                f"and classes are whole numbers below {most}"
            )
        return plane.astype(np.uint16)

    def _planes(self, output: Array) -> Array:
        """Return scores (C, h, w) float32, one plane for each class."""
        planes = output.astype(np.float32, copy=False)
        if planes.ndim == _PLANES and self._own.channels == "last":
            planes = planes.transpose(2, 0, 1)
        if planes.ndim == _PLANES and len(planes) == 1:
            planes = np.concatenate((np.full_like(planes, self._own.threshold), planes))
        if (
            planes.ndim != _PLANES
            or not planes.size
            or len(planes) != (len(self._names) or len(planes))
        ):
            raise misfit(
                f"semantic wants scores of {len(self._names) or 'C'} classes, "
                f"{self._own.channels}, for these labels, and sees {output.shape}"
            )
        return planes

    def _read(self, features: Arrays) -> tuple[Array, Array]:
        """Return the classes (K,) and their margins (K, h, w), or a map (h, w) of their indices."""
        if "map" in features:
            classes, maps = np.unique(require_map(features["map"], "u", 2), return_inverse=True)
        else:
            try:
                classes, maps = features["classes"], features["margins"]
            except KeyError as error:
                raise FeaturesError(f"a map's features have {error}") from error
            require_map(maps, "f", 3)
        if classes.dtype.kind != "u" or (len(maps) != len(classes) and "map" not in features):
            raise FeaturesError("the features are not those of a map")
        if self._names and classes.max() >= len(self._names):
            raise FeaturesError(f"the features know more classes than {self._spec.name!r}")
        return classes, maps


def _leading(planes: Array) -> tuple[Array, Array]:
    """Return the best score in each cell and its class (h, w) uint16, of equals the first."""
    best = planes[0].copy()
    leader = np.zeros(best.shape, np.uint16)
    for index, plane in enumerate(planes[1:], start=1):
        np.copyto(leader, index, where=plane > best)
        np.maximum(best, plane, out=best)  # hands a NaN on
    require_finite(best)
    return best, leader


def _contested(leader: Array) -> Array:
    """Say which cells have a neighbour of another leader."""
    around = np.ones((3, 3), np.uint8)
    contested: Array = cv2.dilate(leader, around) != cv2.erode(leader, around)
    return contested


def _decide(margins: Array, rows: Axis, across: Axis, out: Array) -> None:
    """Write the index of the class whose interpolated margin is the largest."""
    best = sample(margins[0], rows, across)
    out[:] = 0
    for index in range(1, len(margins)):
        plane = sample(margins[index], rows, across)
        np.copyto(out, index, where=plane > best)
        np.maximum(best, plane, out=best)
