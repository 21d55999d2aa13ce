"""Nodes and constants, written one call after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from onnx import NodeProto, TensorProto, helper
from onnx.numpy_helper import from_array

_PREFIX = "visionmesh/"


class Wiring:
    """Collects nodes whose values have names that no network uses."""

    def __init__(self, place: str) -> None:
        self._prefix = f"{_PREFIX}{place}/"
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        return self._add(operator, inputs, 1, attributes)[0]

    def pair(self, operator: str, *inputs: str, **attributes: Any) -> tuple[str, str]:
        """Add a node with two outputs and return their names."""
        first, second = self._add(operator, inputs, 2, attributes)
        return first, second

    def give(self, value: str, name: str) -> None:
        """Let ``value`` be called ``name``, too."""
        self.nodes.append(helper.make_node("Identity", [value], [name], name=f"{_PREFIX}{name}"))

    def numbers(self, values: ArrayLike) -> str:
        """Return the name of a float32 constant."""
        return self._constant(np.asarray(values, np.float32))

    def whole(self, values: ArrayLike) -> str:
        """Return the name of an int64 constant."""
        return self._constant(np.asarray(values, np.int64))

    def part(self, value: str, start: int, end: int | None, *, axis: int) -> str:
        """Return ``value`` from ``start`` to ``end`` (`None`: to its end) on one axis."""
        last = np.iinfo(np.int64).max if end is None else end
        bounds = (self.whole([bound]) for bound in (start, last, axis))
        return self.add("Slice", value, *bounds)

    def _add(
        self, operator: str, inputs: tuple[str, ...], outputs: int, attributes: dict[str, Any]
    ) -> list[str]:
        name = f"{self._prefix}{len(self.nodes)}.{operator}"
        names = [name, *(f"{name}.{number}" for number in range(1, outputs))]
        self.nodes.append(helper.make_node(operator, inputs, names, name=name, **attributes))
        return names

    def _constant(self, values: np.ndarray[Any, Any]) -> str:
        name = f"{self._prefix}constant.{len(self.constants)}"
        self.constants.append(from_array(values, name))
        return name
