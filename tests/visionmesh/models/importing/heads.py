"""Small networks whose outputs have the shapes and values of the real families' heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, save_model
from onnx.numpy_helper import from_array

SIDE = 64
CELLS = (SIDE // 8) ** 2 + (SIDE // 16) ** 2 + (SIDE // 32) ** 2
PRIORS = 1200

RNG = np.random.default_rng(5)


class Head(NamedTuple):
    """One output of one image."""

    values: NDArray[Any]
    varies: NDArray[np.float32] | float = 0.01
    """How much each value changes with the image, at most."""
    end: str = ""
    """An operator at the output, such as Softmax."""


def boxes(count: int, *, unit: bool = False, form: str = "centers") -> NDArray[np.float32]:
    """Return ``(count, 4)`` boxes that lie in the input, in pixels or as parts of it."""
    size = 1.0 if unit else float(SIDE)
    low = RNG.uniform(0, 0.75, (count, 2)) * size
    extent = RNG.uniform(0.05, 0.25, (count, 2)) * size
    low[0], extent[0] = 0.9 * size, 0.05 * size
    second = extent if form == "centers" else low + extent
    return np.concatenate((low, second), axis=1).astype(np.float32)


def scores(*shape: int) -> NDArray[np.float32]:
    """Return values from 0.1 to 0.9."""
    return RNG.uniform(0.1, 0.9, shape).astype(np.float32)


def logits(*shape: int) -> NDArray[np.float32]:
    """Return values from -4 to 4."""
    return RNG.uniform(-4, 4, shape).astype(np.float32)


def network(
    heads: Mapping[str, Head],
    *,
    shape: Sequence[int | str] = ("n", 3, SIDE, SIDE),
    opset: int = 17,
    metadata: Mapping[str, str] | None = None,
    entry: Sequence[NodeProto] = (),
    constants: Sequence[TensorProto] = (),
) -> ModelProto:
    """Return a network that gives ``heads``, each a little changed by the image.

    ``entry`` are nodes that make ``pixels`` of ``images``.
    """
    first = "pixels" if entry else "images"
    nodes = [
        *entry,
        helper.make_node("ReduceMean", [first], ["brightness"], axes=[1, 2, 3], keepdims=1),
        # Images of noise are of much the same brightness, and yet each is to have its own answer.
        helper.make_node("Mul", ["brightness", "factor"], ["angle"]),
        helper.make_node("Sin", ["angle"], ["mean"]),
    ]
    stored = [from_array(np.float32(100), "factor"), *constants]
    outputs = []
    for name, head in heads.items():
        more_nodes, more_stored = _head(name, head)
        nodes += more_nodes
        stored += more_stored
        kind = helper.np_dtype_to_tensor_dtype(head.values.dtype)
        outputs.append(helper.make_tensor_value_info(name, kind, [shape[0], *head.values.shape]))
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "heads", [image], outputs, stored)
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    checker.check_model(model, full_check=True)
    return model


def _head(name: str, head: Head) -> tuple[list[NodeProto], list[TensorProto]]:
    rank = head.values.ndim
    varies = np.broadcast_to(np.float32(head.varies), head.values.shape)
    stored = [
        from_array(np.array([0, *[1] * rank], np.int64), f"{name}/rank"),
        from_array(np.ascontiguousarray(varies)[None], f"{name}/varies"),
        from_array(head.values.astype(np.float32)[None], f"{name}/values"),
    ]
    nodes = [
        helper.make_node("Reshape", ["mean", f"{name}/rank"], [f"{name}/mean"]),
        helper.make_node("Mul", [f"{name}/mean", f"{name}/varies"], [f"{name}/change"]),
        helper.make_node("Add", [f"{name}/change", f"{name}/values"], [f"{name}/sum"]),
    ]
    kind = helper.np_dtype_to_tensor_dtype(head.values.dtype)
    if head.end:
        nodes.append(helper.make_node(head.end, [f"{name}/sum"], [name]))
    else:
        nodes.append(helper.make_node("Cast", [f"{name}/sum"], [name], to=kind))
    return nodes, stored


def save(model: ModelProto, file: Path) -> Path:
    """Write ``model`` to ``file`` and return it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, file)
    return file
