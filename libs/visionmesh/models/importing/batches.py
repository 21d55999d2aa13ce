"""The batch dimension of a graph: how many images it takes at once, and how to free it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

_FREE = "N"


def with_batch(model: onnx.ModelProto, size: int | None) -> onnx.ModelProto:
    """Return a copy whose input and outputs tell this batch; `None`: any."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]  # they tell the old size
    for value in (copy.graph.input[0], *copy.graph.output):
        dims = value.type.tensor_type.shape.dim
        if not dims or dims[0].dim_value > 1:
            continue
        dims[0].Clear()
        if size is None:
            dims[0].dim_param = _FREE
        else:
            dims[0].dim_value = size
    return copy


def with_batched_outputs(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """Return a copy of a network for one image whose outputs ``names`` get a batch dimension."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    axes = "batch/axes"
    graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.int64), axes))
    inner = {name: f"{name}/of-one-image" for name in names}
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [inner.get(value, value) for value in values]
    for output in [output for output in graph.output if output.name in inner]:
        name, old = output.name, output.type.tensor_type
        graph.node.append(helper.make_node("Unsqueeze", [inner[name], axes], [name]))
        dims = [dim.dim_value or dim.dim_param or None for dim in old.shape.dim]
        wider = helper.make_tensor_value_info(name, old.elem_type, [1, *dims])
        output.CopyFrom(wider)
    return copy


def free_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a network for one image that may take several.

    Shapes that are written into the graph are what stands in the way: where one begins with the
    batch it is told to keep the first dimension, or to compute it of the others. Whether that is
    right only a run can tell.
    """
    freed = with_batch(model, None)
    constants = _constants(freed.graph)
    for node in freed.graph.node:
        if node.op_type != "Reshape" or node.domain or node.input[1] not in constants:
            continue
        shape = _freed_shape(constants[node.input[1]])
        if shape is not None:
            _let_zero_keep(node)
            name = f"{node.input[1]}/free/{node.output[0]}"
            freed.graph.initializer.append(numpy_helper.from_array(shape, name))
            node.input[1] = name
    return freed


def _freed_shape(shape: NDArray[Any]) -> NDArray[np.int64] | None:
    """Return a shape that fits any batch, if this one fits a batch of one only."""
    freed = shape.astype(np.int64)
    if not freed.size or freed[0] == -1 or 0 in freed:
        return None
    if -1 in freed and freed[0] != 1:
        return None
    freed[0] = 0 if -1 in freed else -1
    return freed


def _let_zero_keep(node: onnx.NodeProto) -> None:
    """Let a 0 in the shape stand for the size that is there, which is what it usually means."""
    for attribute in [each for each in node.attribute if each.name == "allowzero"]:
        node.attribute.remove(attribute)


def _constants(graph: onnx.GraphProto) -> dict[str, NDArray[Any]]:
    """Return the small integers of a graph by name: what shapes are made of."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            stored[node.output[0]] = node.attribute[0].t
    return {
        name: numpy_helper.to_array(tensor)
        for name, tensor in stored.items()
        if tensor.data_type == onnx.TensorProto.INT64 and len(tensor.dims) == 1
    }
