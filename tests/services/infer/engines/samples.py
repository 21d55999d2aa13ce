"""Images and small networks for all engines."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, save_model
from onnx.numpy_helper import from_array

from tests.networks import describe
from visionmesh.models.spec import InputSpec, ModelSpec

Array = NDArray[Any]

_KINDS = {"sure": TensorProto.BOOL, "where": TensorProto.INT64}


def spec_of(*, max_size: int = 4, **image: Any) -> ModelSpec:
    return describe(input=image, batching={"max_size": max_size})


def images_of(count: int, *, spec: InputSpec | None = None, seed: int = 0) -> list[Array]:
    spec = spec or spec_of().input
    rng = np.random.default_rng(seed)
    shape = (spec.height, spec.width, spec.channels)
    return [rng.integers(0, 256, shape, np.uint8) for _ in range(count)]


def planar(images: list[Array]) -> Array:
    return np.stack(images).transpose(0, 3, 1, 2).astype(np.float32)


def save(file: Path, nodes: list[NodeProto], found: dict[str, Any], **tables: Array) -> Path:
    """Write a network that makes ``found``, shapes by name, of ``image`` and constant tables."""
    outputs = [
        helper.make_tensor_value_info(name, _KINDS.get(name, TensorProto.FLOAT), shape)
        for name, shape in found.items()
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 6])
    constants = [from_array(table, name) for name, table in tables.items()]
    graph = helper.make_graph(nodes, "small", [image], outputs, constants)
    opsets = [helper.make_opsetid("", 17)]
    save_model(helper.make_model(graph, opset_imports=opsets, ir_version=10), file)
    return file


def save_folding(file: Path) -> Path:
    """Write a network that makes rows of an image, as wide as its brightest value says.

    It also says of each value whether it is above 100, in a shape that is known before.
    """
    nodes = [
        helper.make_node("ReduceMax", ["image"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["brightest"], to=TensorProto.INT64),
        helper.make_node("Max", ["brightest", "one"], ["width"]),
        helper.make_node("Div", ["pixels", "width"], ["height"]),
        helper.make_node("Concat", ["same", "height", "width"], ["shape"], axis=0),
        helper.make_node("Reshape", ["image", "shape"], ["found"]),
        helper.make_node("Greater", ["found", "hundred"], ["sure"]),
        helper.make_node("Flatten", ["image"], ["flat"]),
    ]
    shapes = {"found": ["n", "h", "w"], "sure": ["n", "h", "w"], "flat": ["n", 144]}
    tables = {"one": np.array([1]), "pixels": np.array([144]), "same": np.array([0])}
    return save(file, nodes, shapes, hundred=np.array([100], np.float32), **tables)


def save_wide(file: Path) -> int:
    """Write a network with much weight; return its bytes."""
    table = np.random.default_rng(0).random((144, 100_000), np.float32)
    nodes = [
        helper.make_node("Flatten", ["image"], ["row"]),
        helper.make_node("MatMul", ["row", "table"], ["wide"]),
        helper.make_node("Identity", ["wide"], ["found"]),
    ]
    save(file, nodes, {"found": ["n", 100_000]}, table=table)
    return table.nbytes


def rss() -> int:
    """Return the bytes of memory that this process has."""
    gc.collect()
    return int(psutil.Process().memory_info().rss)
