"""ONNX files as strangers send them: read whole and checked, with nothing from outside."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from visionmesh.models.check import ort_errors
from visionmesh.models.graphs import IR_VERSION
from visionmesh.models.importing.wishes import misfit, unsafe

MAX_BYTES = 2**31 - 1
"""Protobuf's limit, and so that of a network in one file."""
_SHOWN = 5
_STANDARD = ("", "ai.onnx")


def read_onnx(file: Path) -> onnx.ModelProto:
    """Return the network in ``file`` with its weights, however they are stored.

    A file that is too large is refused by its size, without being read.

    Raises
    ------
    ConfigurationError
        (model_invalid) if the file is damaged, too large, or wants operators that nobody knows;
        (model_unsafe) if it names weights outside its own folder.
    """
    require_size(file, file.stat().st_size)
    try:
        model = onnx.load(file, format="protobuf", load_external_data=False)
    except DecodeError as error:
        raise misfit(f"{file} is no ONNX file, or is cut short; export or copy it again") from error
    if not model.graph.node or not model.graph.output or not model.opset_import:
        raise misfit(f"{file} holds no network, or is cut short; export or copy it again")
    _require_known_operators(model, file)
    _merge_external(model, file)
    return model


def require_size(source: Path | str, size: int) -> None:
    """Raise `ConfigurationError` if ``size`` bytes are more than one ONNX file can hold."""
    if size > MAX_BYTES:
        raise misfit(
            f"{source} has {size / 1e9:.1f} GB with its weights, and ONNX keeps at most "
            f"{MAX_BYTES / 1e9:.1f} in one file; export it with half precision, or a smaller one"
        )


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every stored tensor: initialisers and attributes, in all graphs and functions."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Any) -> Iterator[onnx.TensorProto]:
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        graphs = [attribute.g] if attribute.HasField("g") else []
        for graph in (*graphs, *attribute.graphs):
            yield from _graph_tensors(graph)


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of ``graph`` and of the graphs inside them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            graphs = [attribute.g] if attribute.HasField("g") else []
            for inner in (*graphs, *attribute.graphs):
                yield from nodes(inner)


def _merge_external(model: onnx.ModelProto, file: Path) -> None:
    outside = [tensor for tensor in tensors(model) if uses_external_data(tensor)]
    if not outside:
        return
    folder = file.parent.resolve()
    sizes: dict[Path, int] = {}
    wanted = 0
    for tensor in outside:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = _inside(folder, entries.get("location", ""), file, tensor.name)
        sizes[location] = location.stat().st_size
        wanted += _extent(location, entries, file, tensor.name)
    # Several tensors may name the same bytes, and each gets its own.
    require_size(file, file.stat().st_size + max(wanted, sum(sizes.values())))
    try:
        load_external_data_for_model(model, str(folder))
    except onnx.checker.ValidationError as error:
        why = str(error).strip().rstrip(".")
        raise unsafe(f"{file}: {why}; put a copy of the weights beside the network") from error


def _inside(folder: Path, location: str, file: Path, name: str) -> Path:
    target = (folder / location).resolve()
    if not location or not target.is_relative_to(folder):
        raise unsafe(
            f"{file} wants the weights {name!r} from {location!r}, outside its own folder; "
            "copy them beside it and export it so"
        )
    if not target.is_file():
        raise misfit(
            f"{file} keeps the weights {name!r} in {location!r}, which is not there; "
            "copy it beside the network"
        )
    return target


def _extent(location: Path, entries: dict[str, str], file: Path, name: str) -> int:
    """Return how many bytes of ``location`` a tensor wants."""
    offset, length = entries.get("offset", "0"), entries.get("length", "0")
    if not (offset.isdecimal() and length.isdecimal()):
        raise misfit(f"{file} tells no place of the weights {name!r}; export it again")
    left = location.stat().st_size - int(offset)
    if int(length) > left:
        raise misfit(f"{location} is cut short: the weights {name!r} end behind it; copy it again")
    return int(length) or left


def _require_known_operators(model: onnx.ModelProto, file: Path) -> None:
    versions = {entry.domain: entry.version for entry in model.opset_import}
    newest = _newest_opset()
    version = max((versions[domain] for domain in _STANDARD if domain in versions), default=0)
    if version > newest:
        raise misfit(
            f"{file} has operators of opset {version}, and those up to {newest} are known; "
            "export it with a lower opset"
        )
    own = {(function.domain, function.name) for function in model.functions}
    unknown = sorted(
        {
            f"{node.op_type} ({node.domain or 'ai.onnx'})"
            for node in nodes(model.graph)
            if (node.domain, node.op_type) not in own and not _is_known(node, version)
        }
    )
    if unknown:
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        raise misfit(
            f"{file} wants operators that no engine knows: {', '.join(unknown[:_SHOWN])}{more}; "
            "export it without them"
        )


def _is_known(node: onnx.NodeProto, version: int) -> bool:
    if node.domain in _STANDARD:
        return bool(onnx.defs.has(node.op_type, version, ""))
    return (node.domain, node.op_type) in _contributed()


@cache
def _contributed() -> frozenset[tuple[str, str]]:
    """Return the operators of other domains that ONNX Runtime brings along."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # noqa: PLC0415 - it is heavy

    return frozenset((schema.domain, schema.name) for schema in state.get_all_operator_schema())


@cache
def _newest_opset() -> int:
    """Return the newest opset that ONNX Runtime takes, which may be older than that of ONNX."""
    version = int(onnx.defs.onnx_opset_version())
    while not _is_taken(version):
        version -= 1
    return version


def _is_taken(version: int) -> bool:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", "x", "y")], "g", value[:1], value[1:])
    opset = helper.make_opsetid("", version)
    model = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=[opset])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except ort_errors():
        return False
    return True
