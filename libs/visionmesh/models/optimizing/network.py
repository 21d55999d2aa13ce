"""A network made ready: constants folded, shapes inferred, every operator named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto
from onnxruntime.quantization.shape_inference import quant_pre_process

from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.graphs import CANNOT_RAISE, OPSET, opset, raised

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators that weights are for; nearly all of the time and the bytes are theirs."""

_QUANTISED = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})


def prepare(weights: Path, target: Path) -> Path:
    """Write ``weights`` made ready to ``target`` and return that.

    Raises
    ------
    ConfigurationError
        (model_invalid) if there is nothing in it to make smaller, or it cannot be made ready.
    """
    try:
        model = onnx.load(weights)
    except (DecodeError, OSError) as error:
        raise _unfit(weights, f"it cannot be read: {error}") from error
    if any(node.op_type in _QUANTISED for node in model.graph.node):
        raise _unfit(weights, "it is quantised already; begin with the float32 network")
    if not has_float_weights(model):
        raise _unfit(weights, "no convolution or product of matrices in it has float32 weights")
    if opset(model) < OPSET:  # scales per channel need 13
        try:
            model = raised(model)
        except CANNOT_RAISE as error:
            raise _unfit(
                weights, f"its opset {opset(model)} cannot be raised to {OPSET}: {error}"
            ) from error
    onnx.save(model, target)
    # Symbolic shapes need a package more, and the measured ranges make up for them.
    quant_pre_process(target, target, skip_symbolic_shape=True)
    ready = onnx.load(target)
    for number, node in enumerate(ready.graph.node):
        node.name = f"{number}:{node.name or node.op_type}"
    onnx.save(ready, target)
    return target


def has_float_weights(model: onnx.ModelProto) -> bool:
    return any(True for _ in weighted(model))


def weighted(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes that are `WEIGHTED` and whose weights are float32 constants of the file."""
    floats = {one.name for one in model.graph.initializer if one.data_type == TensorProto.FLOAT}
    for node in model.graph.node:
        if node.op_type == "Constant":
            floats.update(node.output)
        if node.op_type in WEIGHTED and node.input[1] in floats:
            yield node


def _unfit(weights: Path, why: str) -> ConfigurationError:
    shown = Path(*weights.parts[-3:])
    return ConfigurationError(Code.MODEL_INVALID, f"{shown} cannot be optimised: {why}.")
