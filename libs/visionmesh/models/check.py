"""Whether an ONNX file is the network that ``model.yaml`` describes."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from visionmesh.contracts import Frozen, TensorMeta
from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.heads import class_count
from visionmesh.models.spec import InputSpec, ModelSpec

DYNAMIC = -1
"""A size that is known only when the network has run."""

DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}
"""NumPy's name of what ONNX Runtime calls a type."""

_NOISE = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from .*? failed: ?|/\S+\.(?:cc|h):\d+ .*?\) "
    r"|\b\w+\.(?:cc|h):\d+ \w+ |This is an invalid model\. In Node, \(.*\) , Error "
    r"|for the following indices$| Use external data for large initializers"
)
_TOO_NEW = re.compile(r"ONNX Runtime only \*guarantees\*.*(Opset \d+) .* is till (opset \d+)")
_CUT_SHORT = ("Protobuf parsing failed", "No graph was found in the protobuf")


class Signature(Frozen):
    """What a network takes and gives; shapes begin with the batch, `DYNAMIC` where it is free."""

    inputs: tuple[TensorMeta, ...]
    outputs: tuple[TensorMeta, ...]
    batch: int | None
    """The only batch size that the network takes; `None`: any."""

    @property
    def output_images(self) -> tuple[TensorMeta, ...]:
        """The outputs of one image: shapes without the batch."""
        return tuple(meta.model_copy(update={"shape": meta.shape[1:]}) for meta in self.outputs)


def ort_errors() -> tuple[type[Exception], ...]:
    """Return the errors that ONNX Runtime raises; they have no parent of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # noqa: PLC0415 - it is heavy

    return tuple(
        kind
        for kind in vars(state).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    )


def ort_reason(error: Exception) -> str:
    """Return what ONNX Runtime says, without its numbers, its sources and the file's path."""
    said = _NOISE.sub("", str(error).strip().partition("\n")[0]).strip().rstrip(".")
    return _TOO_NEW.sub(r"\1 is newer than \2, the last that is known", said)


def inspect(onnx: Path, spec: ModelSpec) -> Signature:
    """Load the file ``onnx`` with ONNX Runtime and compare it with ``spec``.

    Raises
    ------
    ConfigurationError
        (model_invalid) if the file is not a complete ONNX network, keeps weights in other files,
        or does not fit ``spec``.
    """
    signature = _read(onnx)
    where = f"{spec.name}/{onnx.parent.name}/{onnx.name}"
    fault = (
        _input_fault(signature, spec.input)
        or _output_fault(signature)
        or _labels_fault(signature, spec)
    )
    if fault:
        raise ConfigurationError(Code.MODEL_INVALID, f"{where}: {fault}.")
    return signature


def _read(onnx: Path) -> Signature:
    import onnxruntime  # noqa: PLC0415 - producers and most services never need it

    options = onnxruntime.SessionOptions()
    # The structure is of interest, not the speed: do not optimise, and start no threads.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    # From an empty folder the runtime finds no weights but those inside the file: what is checked
    # is what will travel.
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder) / onnx.name
        alone.symlink_to(onnx.resolve())
        try:
            session = onnxruntime.InferenceSession(
                alone, options, providers=["CPUExecutionProvider"]
            )
        except ort_errors() as error:
            raise ConfigurationError(
                Code.MODEL_INVALID, _refusal(onnx, ort_reason(error))
            ) from error
    inputs = tuple(_meta(node) for node in session.get_inputs())
    outputs = tuple(_meta(node) for node in session.get_outputs())
    batch = inputs[0].shape[0] if inputs and inputs[0].shape else DYNAMIC
    return Signature(inputs=inputs, outputs=outputs, batch=None if batch == DYNAMIC else batch)


def _refusal(onnx: Path, reason: str) -> str:
    if "External data" in reason or "external data" in reason:
        return (
            f"{onnx} keeps weights in other files; `visionmesh import` makes one file of them, "
            "of up to 2.1 GB."
        )
    if reason in _CUT_SHORT:
        reason = "it is cut short, or no ONNX file at all"
    return f"{onnx} is not a network that ONNX Runtime can load; export it again: {reason}."


def _meta(node: Any) -> TensorMeta:
    shape = tuple(size if isinstance(size, int) and size > 0 else DYNAMIC for size in node.shape)
    return TensorMeta(name=node.name, dtype=DTYPES.get(node.type, node.type), shape=shape)


def _input_fault(signature: Signature, spec: InputSpec) -> str | None:
    if len(signature.inputs) != 1:
        names = ", ".join(meta.name for meta in signature.inputs)
        return f"the network must have exactly one input, the image; it has: {names or 'none'}"
    (image,) = signature.inputs
    if len(image.shape) != 4:  # noqa: PLR2004 - batch, channels, height, width
        return (
            f"input {image.name!r} has {len(image.shape)} dimensions; it must have 4 "
            f"({spec.layout}); export the network with a batch of images"
        )
    sizes = dict(zip(spec.layout, image.shape, strict=True))
    wanted = {"C": spec.channels, "H": spec.height, "W": spec.width}
    keys = {"C": "color", "H": "height", "W": "width"}
    for axis, size in wanted.items():
        if sizes[axis] not in (DYNAMIC, size):
            return (
                f"input {image.name!r} is {_shown(image.shape)}, where model.yaml wants "
                f"{axis} = {size} in {spec.layout}; correct input.{keys[axis]} or input.layout"
            )
    if image.dtype != spec.dtype:
        return (
            f"input {image.name!r} takes {image.dtype}, but input.dtype is {spec.dtype}; "
            "make them equal"
        )
    return None


def _output_fault(signature: Signature) -> str | None:
    if not signature.outputs:
        return "the network has no output"
    for meta in signature.outputs:
        if meta.dtype not in DTYPES.values():
            return f"output {meta.name!r} is a {meta.dtype}; only numeric tensors can be served"
        if not meta.shape or meta.shape[0] not in (DYNAMIC, signature.batch):
            return (
                f"output {meta.name!r} is {_shown(meta.shape)}; its first dimension must be the "
                f"batch, like that of the input ({_shown((signature.batch or DYNAMIC,))})"
            )
    return None


def _labels_fault(signature: Signature, spec: ModelSpec) -> str | None:
    classes = class_count(spec, signature.output_images)
    if not spec.labels or classes is None or classes == len(spec.labels):
        return None
    shapes = ", ".join(_shown(meta.shape) for meta in signature.outputs)
    return (
        f"model.yaml has {len(spec.labels)} labels, but the network tells {classes} classes apart "
        f"({spec.output.decoder} on {shapes}); correct labels"
    )


def _shown(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join("?" if size == DYNAMIC else str(size) for size in shape) + ")"
