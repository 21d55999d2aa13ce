"""Writes a network with what comes before and behind it as one ONNX file."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import onnx
from onnx import TensorProto, checker, helper, shape_inference

from services.postprocess.decoders.protocol import name_boxes_and_scores
from visionmesh.contracts import Frozen, TensorMeta
from visionmesh.errors import Code, ConfigurationError, Reject
from visionmesh.models.artifacts import file_sha256
from visionmesh.models.check import DYNAMIC, Signature, inspect
from visionmesh.models.completing import parts
from visionmesh.models.completing.candidates import Table
from visionmesh.models.completing.entry import write_entry
from visionmesh.models.completing.exits import DETECTORS, write_scores
from visionmesh.models.completing.naming import first_dimension, rename, told_of
from visionmesh.models.completing.parts import Part, spec_digest
from visionmesh.models.completing.resizing import Resized, write_way_back
from visionmesh.models.completing.suppression import Found, write_suppression
from visionmesh.models.completing.wiring import Wiring
from visionmesh.models.folder import ModelFolder
from visionmesh.models.graphs import CANNOT_RAISE, opset, raised
from visionmesh.models.heads import class_count
from visionmesh.models.spec import ModelSpec
from visionmesh.workbench import Workbench

COMPLETE_FILE = "complete.onnx"
"""Beside ``model.onnx``, `verify` compares it."""

_Info = tuple[str, int, tuple[int | str | None, ...]]
"""An output's value in the graph, its dtype and its shape."""

_OLDEST = 13
"""The opset that the operators are written for."""


class Completed(Frozen):
    """What was written, and what it takes and gives."""

    model: str
    version: int
    file: Path
    size_bytes: int
    parts: tuple[Part, ...]
    inputs: tuple[TensorMeta, ...]
    outputs: tuple[TensorMeta, ...]


def complete(
    folder: ModelFolder,
    embed: Collection[Part],
    *,
    version: int | None = None,
    target: Path | None = None,
) -> Completed:
    """Write the network of a version, by default the newest, with the parts ``embed`` around it.

    ``target`` is by default `COMPLETE_FILE` beside the network.

    Raises
    ------
    ConfigurationError
        (model_invalid) if the network does not fit its spec, or a part cannot be put into it.
    Refused
        (unknown_version) if the folder lacks the version.
    """
    number, weights = folder.pick(version)
    target = target or weights.with_name(COMPLETE_FILE)
    spec = folder.spec
    Workbench(spec)  # whose decoder refuses wrong parameters
    signature = inspect(weights, spec)
    wanted = tuple(part for part in Part if part in embed)
    _require_possible(spec, wanted)
    model = _load(weights, spec)
    resized = None
    try:
        if Part.PREPROCESS in wanted:
            resized = _enter(model, spec, resize=Part.RESIZE in wanted)
        if Part.POSTPROCESS in wanted:
            _leave(model, spec, signature, resized)
        checker.check_model(model, full_check=True)
    except Reject as error:
        raise _impossible(spec, error.message.removesuffix(".")) from error
    except (checker.ValidationError, shape_inference.InferenceError) as error:
        raise _impossible(spec, f"the whole would not be valid: {error}") from error
    made_of = {parts.NETWORK_KEY: file_sha256(weights), parts.SPEC_KEY: spec_digest(spec)}
    _describe(
        model, spec, wanted, made_of | ({parts.PIXELS_KEY: resized.pixels} if resized else {})
    )
    onnx.save(model, target)
    return Completed(
        model=spec.name,
        version=number,
        file=target,
        size_bytes=target.stat().st_size,
        parts=wanted,
        inputs=tuple(map(told_of, model.graph.input)),
        outputs=tuple(map(told_of, model.graph.output)),
    )


def _require_possible(spec: ModelSpec, wanted: tuple[Part, ...]) -> None:
    if not wanted:
        raise _impossible(spec, f"nothing is to be embedded; name some of {', '.join(Part)}")
    if Part.RESIZE in wanted and Part.PREPROCESS not in wanted:
        raise _impossible(spec, "resize comes before preprocess; embed that, too")
    if Part.POSTPROCESS not in wanted:
        return
    known = ("softmax", *DETECTORS)
    if spec.output.decoder not in known:
        raise _impossible(
            spec,
            f"the decoder {spec.output.decoder} cannot be embedded, only {', '.join(known)}; leave "
            "postprocess out",
        )
    if spec.output.nms == "soft":
        raise _impossible(
            spec, "ONNX has no soft-NMS; leave postprocess out, or let output.nms be per_class"
        )


def _load(weights: Path, spec: ModelSpec) -> onnx.ModelProto:
    model = onnx.load(weights)
    if opset(model) >= _OLDEST:
        return model
    try:
        return raised(model)
    except CANNOT_RAISE as error:
        raise _impossible(spec, f"its opset {opset(model)} cannot be raised: {error}") from error


def _enter(model: onnx.ModelProto, spec: ModelSpec, *, resize: bool) -> Resized | None:
    """Let ``model`` take uint8 images; return what was resized."""
    graph, wiring = model.graph, Wiring("entry")
    rename(graph, (parts.IMAGE,))
    (taken,) = graph.input
    entry = write_entry(wiring, parts.IMAGE, spec.input, resize=resize)
    wiring.give(entry.values, taken.name)
    sides = ("image_height", "image_width") if resize else (spec.input.height, spec.input.width)
    shape = (first_dimension(taken), *sides, spec.input.channels)
    graph.input.pop()
    graph.input.append(helper.make_tensor_value_info(parts.IMAGE, TensorProto.UINT8, shape))
    nodes = [*wiring.nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(wiring.constants)
    return entry.resized


def _leave(
    model: onnx.ModelProto, spec: ModelSpec, signature: Signature, resized: Resized | None
) -> None:
    """Let ``model`` give scores or boxes."""
    graph, wiring = model.graph, Wiring("exit")
    places = _decoded(spec, signature)
    rename(graph, (parts.SCORES, parts.BOXES, parts.CLASSES, parts.BATCH))
    tables = [
        Table(
            wiring.add("Cast", graph.output[place].name, to=TensorProto.FLOAT),
            signature.output_images[place].shape,
        )
        for place in places
    ]
    if spec.output.decoder in DETECTORS:
        count = len(spec.labels) or class_count(spec, signature.output_images)
        if not count:
            raise _impossible(spec, "its classes cannot be counted; name the labels in model.yaml")
        candidates = DETECTORS[spec.output.decoder](wiring, tables, spec)
        found = write_suppression(wiring, candidates, spec, count)
        if resized:
            found = found._replace(boxes=write_way_back(wiring, found.boxes, resized))
        infos = _found(found)
    else:
        scores = write_scores(wiring, tables[0].value, spec)
        infos = {parts.SCORES: (scores, TensorProto.FLOAT, (first_dimension(graph.input[0]), None))}
    del graph.output[:]
    for name, (value, dtype, shape) in infos.items():
        wiring.give(value, name)
        graph.output.append(helper.make_tensor_value_info(name, dtype, shape))
    graph.node.extend(wiring.nodes)
    graph.initializer.extend(wiring.constants)


def _found(found: Found) -> dict[str, _Info]:
    return {
        parts.BOXES: (found.boxes, TensorProto.FLOAT, ("found", 4)),
        parts.SCORES: (found.scores, TensorProto.FLOAT, ("found",)),
        parts.CLASSES: (found.classes, TensorProto.INT64, ("found",)),
        parts.BATCH: (found.batch, TensorProto.INT64, ("found",)),
    }


def _decoded(spec: ModelSpec, signature: Signature) -> tuple[int, ...]:
    """Return the places of the outputs that the decoder reads: the boxes' before the scores'."""
    shapes = {meta.name: meta.shape for meta in signature.output_images}
    names, told, decoder = list(shapes), spec.output.parameters, spec.output.decoder
    wanted = told.get("tensor") or (names[0] if len(names) == 1 else None)
    chosen: tuple[str, ...]
    if decoder == "ssd" or (decoder == "detr" and wanted is None):
        chosen = name_boxes_and_scores(shapes, told.get("boxes"), told.get("scores"))
    elif wanted in names:
        chosen = (wanted,)
    else:
        raise _impossible(
            spec, f"its outputs are {', '.join(names)}; let output.tensor name the one to decode"
        )
    if decoder in ("ssd", "detr") and shapes[chosen[-1]][-1:] == (DYNAMIC,):
        raise _impossible(spec, f"only a run can tell how many classes {chosen[-1]} has")
    return tuple(map(names.index, chosen))


def _describe(
    model: onnx.ModelProto, spec: ModelSpec, wanted: tuple[Part, ...], more: dict[str, str]
) -> None:
    own = {parts.PARTS_KEY: ",".join(wanted), parts.LABELS_KEY: json.dumps(spec.labels)}
    told = {one.key: one.value for one in model.metadata_props}
    helper.set_model_props(model, told | own | more)


def _impossible(spec: ModelSpec, why: str) -> ConfigurationError:
    return ConfigurationError(Code.MODEL_INVALID, f"{spec.name} cannot be completed: {why}.")
