"""INT8 networks with explicit quantisation: Q/DQ pairs around what computes in integers."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import onnx
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from visionmesh.models.optimizing.network import WEIGHTED, weighted

Scheme = Literal["u8s8", "s8s8"]

Layer = tuple[str, ...]
"""Names of operators that are quantised together or not at all."""

FILES: MappingProxyType[Scheme, str] = MappingProxyType(
    {"u8s8": "model.int8.onnx", "s8s8": "model.int8-s8.onnx"}
)

OPERATORS = WEIGHTED | {
    "Add", "AveragePool", "Clip", "Concat", "GlobalAveragePool", "LeakyRelu", "MaxPool", "Mul",
    "Pad", "Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Split", "Squeeze", "Transpose",
    "Unsqueeze",
}  # fmt: skip
"""What can stay in integers between two operators with weights."""


class Quantizer:
    """Makes INT8 networks of one that was prepared and whose ``ranges`` were measured."""

    def __init__(self, *, network: Path, ranges: TensorsData) -> None:
        self._network = network
        self._ranges = ranges

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """What can be quantised: each operator with weights, and those that follow it.

        Behind the last weights nothing is: there is little to gain there, but much to lose where
        sizes of boxes and scores below 1 come together in one tensor, with one scale.
        """
        model = onnx.load(self._network)
        leading = _leading_to_weights(model)
        with_weights = {node.name for node in weighted(model)}
        layers: dict[str, list[str]] = {}
        owners: dict[str, str] = {}
        for node in model.graph.node:
            before = next((owners[name] for name in node.input if name in owners), "")
            owner = node.name if node.name in with_weights else before
            owners.update(dict.fromkeys(node.output, owner))
            if node.op_type in OPERATORS and node.name in leading:
                layers.setdefault(owner, []).append(node.name)
        return tuple(tuple(names) for names in layers.values())

    def write(self, target: Path, scheme: Scheme, layers: Iterable[Layer]) -> Path:
        """Write the network with ``layers`` in INT8 and all else in float; return ``target``.

        ``u8s8``: activations asymmetric and unsigned, as CPUs multiply fastest. ``s8s8``: both
        symmetric and the bias in float, as TensorRT demands it. Weights have a scale per channel.
        """
        symmetric = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
        quantizer = QDQQuantizer(
            onnx.load(self._network),
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8 if scheme == "u8s8" else QuantType.QInt8,
            tensors_range=self._ranges,
            # To this library no names at all mean every node.
            nodes_to_quantize=[name for layer in layers for name in layer],
            nodes_to_exclude=[],
            op_types_to_quantize=sorted(OPERATORS),
            extra_options=symmetric if scheme == "s8s8" else {},
        )
        quantizer.quantize_model()
        quantizer.model.save_model_to_file(target)
        return target


def _leading_to_weights(model: onnx.ModelProto) -> Collection[str]:
    """Return the names of the nodes with weights, and of all that work towards one of them."""
    with_weights = {node.name for node in weighted(model)}
    wanted: set[str] = set()
    leading: set[str] = set()
    for node in reversed(model.graph.node):
        if node.name in with_weights or wanted & set(node.output):
            leading.add(node.name)
            wanted.update(node.input)
    return leading
