"""What is made of a network before it is kept; every change must leave its outputs as they were."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, shape_inference

from visionmesh.errors import ConfigurationError
from visionmesh.models.check import ort_errors, ort_reason
from visionmesh.models.graphs import CANNOT_RAISE, IR_VERSION, OPSET, fixed_batch, opset, raised
from visionmesh.models.importing.batches import (
    free_batch,
    with_batch,
    with_batched_outputs,
)
from visionmesh.models.importing.probe import Outputs, Runner, agree, agrees_in_batches
from visionmesh.models.importing.reading import tensors

_AXES_AS_INPUT = 13
"""From this opset on Unsqueeze takes its axes as an input."""
_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)

Change = Callable[[onnx.ModelProto], onnx.ModelProto]


@dataclass(kw_only=True)
class Tidied:
    """A network that was made ready, and what was done to it."""

    model: onnx.ModelProto
    outputs: Outputs
    """Of as many made-up images as the batch holds, or one."""
    batch: int | None = None
    """The only size that the network takes; `None`: any."""
    notes: list[str] = field(default_factory=list)

    def apply(self, change: Change, images: NDArray[Any], otherwise: str) -> None:
        """Make ``change`` if the outputs stay as they are; else note what is left ``otherwise``."""
        try:
            changed = change(self.model)
            if agree(self.outputs, Runner(changed)(images)):
                self.model = changed
                return
            why = "the outputs would change"
        except _cannot() as error:
            why = ort_reason(error)
        self.notes.append(f"{otherwise}: {why}")


def tidy(model: onnx.ModelProto, images: NDArray[Any]) -> Tidied:
    """Return ``model`` with a free batch if it can be, newer operators and folded constants.

    ``images`` are in the form of its input and at least as many as the largest batch tried.

    Raises
    ------
    ConfigurationError
        (model_invalid) if ONNX Runtime cannot load or run the network.
    """
    model = _without_weights_as_inputs(model)
    batch = fixed_batch(model)
    first = images[: batch or 1]
    work = Tidied(model=model, outputs=Runner(model)(first), batch=batch)
    version = opset(model)
    if version < OPSET:
        work.apply(_upgraded, first, f"the operators stay those of opset {version}")
    if batch == 1:
        _batch_outputs(work, first)
    _settle_batch(work, images)
    # ONNX Runtime would add conversions for a CPU that cannot compute with halves.
    if not any(tensor.data_type in _HALVES for tensor in tensors(work.model)):
        work.apply(_folded, first, "the constants are not folded")
    with suppress(shape_inference.InferenceError):  # shapes between the layers are a courtesy
        work.model = shape_inference.infer_shapes(work.model, data_prop=True)
    return work


def _batch_outputs(work: Tidied, image: NDArray[Any]) -> None:
    """Give outputs a batch of one that have none, as those of torchvision's detectors."""
    bare = [name for name, array in work.outputs.items() if array.shape[:1] != (1,)]
    if bare and opset(work.model) >= _AXES_AS_INPUT:
        work.model = with_batched_outputs(work.model, bare)
        work.outputs = Runner(work.model)(image)


def _settle_batch(work: Tidied, images: NDArray[Any]) -> None:
    """Free a batch of one if the network allows it, and fix a free one if it does not."""
    if work.batch not in (None, 1):
        return
    single = Runner(work.model)
    for change in [free_batch] if work.batch else [None, free_batch]:
        try:
            # One by one, as each copy has all weights.
            candidate = change(work.model) if change else work.model
            runner = Runner(candidate) if change else single
            if agrees_in_batches(single, runner, images):
                work.model, work.batch = candidate, None
                return
            why = "says something else of an image when others are beside it"
        except ConfigurationError as error:
            why = f"fails: {error.message.rstrip('.')}"
    work.model, work.batch = with_batch(work.model, 1), 1
    work.notes.append(f"the batch is 1, as with several images the network {why}")


def _without_weights_as_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``model`` with inputs that are images only: engines fold what nobody can replace."""
    stored = {tensor.name for tensor in model.graph.initializer}
    for value in [value for value in model.graph.input if value.name in stored]:
        model.graph.input.remove(value)
    model.ir_version = max(model.ir_version, IR_VERSION)
    return model


def _upgraded(model: onnx.ModelProto) -> onnx.ModelProto:
    return _with_metadata(raised(model), model)


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return what ONNX Runtime's basic optimisations make, which are in standard operators."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "folded.onnx"
        options.optimized_model_filepath = str(file)
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        folded = onnx.load(file)
    used = {node.domain for node in folded.graph.node} | {"", "ai.onnx"}
    used |= {entry.domain for entry in model.opset_import}
    for entry in [entry for entry in folded.opset_import if entry.domain not in used]:
        folded.opset_import.remove(entry)
    return _with_metadata(folded, model)


def _with_metadata(model: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    known = {entry.key for entry in model.metadata_props}
    model.metadata_props.extend(entry for entry in source.metadata_props if entry.key not in known)
    return model


def _cannot() -> tuple[type[Exception], ...]:
    """Return what a change may raise that the network is not made for."""
    return (
        ConfigurationError,
        *CANNOT_RAISE,
        *ort_errors(),
    )
