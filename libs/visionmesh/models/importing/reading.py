"""ONNX files as strangers send them: read whole and checked, with nothing from outside."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # no stubs
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

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
    if not model.graph.node or not model.opset_import:
        raise misfit(f"{file} holds no network, or is cut short; export or copy it again")
    _require_known_operators(model, file)
    _merge_external(model, file)
    return model


def require_size(file: Path, size: int) -> None:
    """Raise `ConfigurationError` if ``size`` bytes are more than one ONNX file can hold."""
    if size > MAX_BYTES:
        raise misfit(
            f"{file} has {size / 1e9:.1f} GB with its weights, and a network in one file at most "
            f"{MAX_BYTES / 1e9:.1f}; export it with half precision, or a smaller one"
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
    locations: set[Path] = set()
    for tensor in outside:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = _inside(folder, entries.get("location", ""), file, tensor.name)
        _require_extent(location, entries, file, tensor.name)
        locations.add(location)
    sizes = (part.stat().st_size for part in locations)
    require_size(file, file.stat().st_size + sum(sizes))
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


def _require_extent(location: Path, entries: dict[str, str], file: Path, name: str) -> None:
    offset, length = entries.get("offset", "0"), entries.get("length", "0")
    if not (offset.isdecimal() and length.isdecimal()):
        raise misfit(f"{file} tells no place of the weights {name!r}; export it again")
    if int(offset) + int(length) > location.stat().st_size:
        raise misfit(f"{location} is cut short: the weights {name!r} end behind it; copy it again")


def _require_known_operators(model: onnx.ModelProto, file: Path) -> None:
    versions = {entry.domain: entry.version for entry in model.opset_import}
    newest = onnx.defs.onnx_opset_version()
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
