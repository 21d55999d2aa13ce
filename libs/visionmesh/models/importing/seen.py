"""What is seen of a network's outputs, and what is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx
from numpy.typing import NDArray

from visionmesh.models.spec import Task

Array = NDArray[Any]

_PASSING = {"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A network's outputs for a few made-up images, and what is known besides."""

    outputs: Mapping[str, Array]
    """Of one image, by name, without the batch."""
    width: int
    height: int
    labels: int | None
    """How many classes have a name; `None`: not known."""
    model: onnx.ModelProto

    def maker(self, name: str) -> onnx.NodeProto | None:
        """Return the node that makes a value, behind those that only change its shape."""
        makers = {output: node for node in self.model.graph.node for output in node.output}
        while (node := makers.get(name)) is not None and node.op_type in _PASSING:
            name = node.input[0]
        return node


@dataclass(frozen=True, kw_only=True)
class Guess:
    """One way to read the outputs."""

    decoder: str
    task: Task = Task.DETECTION
    uses: tuple[str, ...]
    """The outputs that are read; others are dropped."""
    classes: int | None = None
    """`None`: the outputs do not tell."""
    why: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """The decoder's own, as seen."""
    assumed: Mapping[str, Any] = field(default_factory=dict)
    """The decoder's own, as they usually are."""
    wanted: Mapping[str, str] = field(default_factory=dict)
    """The decoder's own that nothing tells, and why they are needed: the user must say them."""


def shown(outputs: Mapping[str, Array]) -> str:
    """Return names, shapes and dtypes of outputs for people."""
    return ", ".join(f"{name} {array.shape} {array.dtype}" for name, array in outputs.items())
