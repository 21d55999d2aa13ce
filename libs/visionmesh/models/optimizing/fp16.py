"""FP16 networks: half the bytes, with what would overflow kept in float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

FILE = "model.fp16.onnx"

_LIMIT = float(np.finfo(np.float16).max) / 2
"""Other images may bring larger values than those that were measured."""


def overflowing(network: Path, extremes: Mapping[str, float]) -> tuple[str, ...]:
    """Return the names of the operators that take or make a value too large for FP16.

    ``extremes`` are the largest absolute values of the tensors on real images.
    """
    model = onnx.load(network)
    constants = {one.name: _largest(one) for one in model.graph.initializer}
    largest = {**constants, **extremes}
    return tuple(
        node.name
        for node in model.graph.node
        if any(not largest.get(name, 0.0) <= _LIMIT for name in (*node.input, *node.output))
    )


def write(network: Path, target: Path, in_float: tuple[str, ...]) -> Path:
    """Write ``network`` in FP16, but for ``in_float``; inputs and outputs keep their types."""
    model = convert_float_to_float16(
        onnx.load(network), keep_io_types=True, node_block_list=list(in_float)
    )
    _straighten(model)
    onnx.save(model, target)
    return target


def _straighten(model: onnx.ModelProto) -> None:
    """Let float32 go from one float32 operator to the next without a detour.

    The converter takes it to FP16 and back, which is where it overflows.
    """
    narrowed = {
        node.output[0]: node.input[0]
        for node in model.graph.node
        if _casts_to(node) == TensorProto.FLOAT16
    }
    for node in model.graph.node:
        if _casts_to(node) == TensorProto.FLOAT:
            node.input[0] = narrowed.get(node.input[0], node.input[0])


def _casts_to(node: onnx.NodeProto) -> int | None:
    if node.op_type != "Cast":
        return None
    kind: int = next(one.i for one in node.attribute if one.name == "to")
    return kind


def _largest(constant: onnx.TensorProto) -> float:
    values = numpy_helper.to_array(constant)
    if values.dtype != np.float32:
        return 0.0
    return float(np.abs(values).max(initial=0))
