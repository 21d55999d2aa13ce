"""Names and sizes in a graph."""

from __future__ import annotations

from collections.abc import Collection

import onnx
from onnx import helper

from visionmesh.contracts import TensorMeta
from visionmesh.models.check import DYNAMIC


def rename(graph: onnx.GraphProto, names: Collection[str]) -> None:
    """Give the network's values called ``names`` other ones, in inner graphs, too."""
    new = {name: f"network/{name}" for name in names}
    stored = (sparse.values for sparse in graph.sparse_initializer)
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer, *stored):
        value.name = new.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                rename(inner, names)


def first_dimension(value: onnx.ValueInfoProto) -> int | str:
    """Return the batch: its only size, or what the free one is called."""
    batch = value.type.tensor_type.shape.dim[0]
    return batch.dim_value or batch.dim_param or "n"


def told_of(value: onnx.ValueInfoProto) -> TensorMeta:
    """Return name, dtype and shape of a graph's input or output."""
    tensor = value.type.tensor_type
    return TensorMeta(
        name=value.name,
        dtype=helper.tensor_dtype_to_np_dtype(tensor.elem_type).name,
        shape=tuple(one.dim_value or DYNAMIC for one in tensor.shape.dim),
    )
