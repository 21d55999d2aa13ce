"""What the entry of a network says of the images that it takes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from visionmesh.models.importing.reading import nodes
from visionmesh.models.importing.wishes import Draft, misfit

_DTYPES = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.UINT8: "uint8",
}
_CHANNELS = (1, 3)
_IMAGE_DIMENSIONS = 4
_TRANSPARENT = {"Identity", "Cast", "Transpose"}
_ARITHMETIC = {"Mul", "Div", "Sub", "Add"}
_FEWEST, _MOST = 0.1, 2.0
"""Factors below the one bring bytes down to about 1; what is subtracted from values of 0 to 1, or
divides them, is below the other."""


def describe_entry(model: onnx.ModelProto, draft: Draft) -> None:
    """Note size, layout, dtype and colours of the input, as far as the graph tells them.

    Raises
    ------
    ConfigurationError
        (model_invalid) if there is no single image input, or the user must say more.
    """
    image = _only_input(model)
    shape = [dim.dim_value if dim.dim_value > 0 else None for dim in _dims(image)]
    shown = f"input {image.name!r} {show(shape)}"
    _describe_dtype(image, shown, draft)
    layout = _layout(shape, shown, draft)
    draft.find("input.layout", layout, f"{shown} has its channels there")
    sizes = dict(zip(layout, shape, strict=True))
    _describe_color(sizes["C"], shown, draft)
    _describe_size(sizes["W"], sizes["H"], shown, draft)
    _describe_normalisation(model, draft)


def image_shape(draft: Draft) -> tuple[int, ...]:
    """Return the shape of one image in the layout of the input."""
    sizes = {
        "C": 1 if draft.get("input.color") == "GRAY" else 3,
        "H": draft.get("input.height"),
        "W": draft.get("input.width"),
    }
    return tuple(sizes[axis] for axis in draft.get("input.layout")[1:])


def show(shape: Any) -> str:
    """Return a shape for people, ``?`` for what is free."""
    return "(" + ", ".join("?" if size is None else str(size) for size in shape) + ")"


def _only_input(model: onnx.ModelProto) -> Any:
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    if len(inputs) != 1:
        names = ", ".join(
            f"{value.name} {show(dim.dim_value or None for dim in _dims(value))}"
            for value in inputs
        )
        raise misfit(
            f"the network must have one input, the image, and has: {names or 'none'}; "
            "export it without the others"
        )
    if len(_dims(inputs[0])) != _IMAGE_DIMENSIONS:
        raise misfit(
            f"input {inputs[0].name!r} has {len(_dims(inputs[0]))} dimensions; an image network "
            "has 4: batch, channels, height, width; export it so"
        )
    return inputs[0]


def _dims(value: Any) -> Any:
    return value.type.tensor_type.shape.dim


def _describe_dtype(image: Any, shown: str, draft: Draft) -> None:
    kind = image.type.tensor_type.elem_type
    if kind not in _DTYPES:
        raise misfit(
            f"{shown} takes {onnx.TensorProto.DataType.Name(kind)}; images can be given as "
            f"{', '.join(_DTYPES.values())}: export it with one of these"
        )
    draft.find("input.dtype", _DTYPES[kind], f"{shown} takes it")


def _layout(shape: list[int | None], shown: str, draft: Draft) -> str:
    first, last = shape[1] in _CHANNELS, shape[3] in _CHANNELS
    if first != last:
        return "NCHW" if first else "NHWC"
    said: str | None = draft.get("input.layout")
    if said is None:
        raise misfit(
            f"{shown} does not tell where its channels are (1 or 3 of them); "
            "say it with --layout NCHW or --layout NHWC"
        )
    return said


def _describe_color(channels: int | None, shown: str, draft: Draft) -> None:
    said = draft.get("input.color")
    if channels == 1:
        draft.find("input.color", "GRAY", f"{shown} has one channel")
    elif channels is not None and (channels not in _CHANNELS or said == "GRAY"):
        raise misfit(
            f"{shown} has {channels} channels, and images have "
            f"{'1 with --color GRAY' if said == 'GRAY' else '1 or 3'}; export it so"
        )


def _describe_size(width: int | None, height: int | None, shown: str, draft: Draft) -> None:
    for key, size in (("input.width", width), ("input.height", height)):
        if size is not None:
            draft.find(key, size, f"{shown} is fixed")
        elif draft.get(key) is None:
            raise misfit(
                f"{shown} takes any size, and nothing says which is best; "
                "say it with --input, such as --input 640 or --input 640x480 (width, height)"
            )


def _describe_normalisation(model: onnx.ModelProto, draft: Draft) -> None:
    """Note what pixels a network wants that normalises them itself."""
    if draft.get("input.dtype") == "uint8":
        return
    first = next(_entry_operations(model.graph), None)
    if first is None:
        return
    operation, operand = first
    largest = float(np.abs(operand).max(initial=0))
    wants_bytes = largest < _FEWEST if operation == "Mul" else largest > _MOST
    why = f"the network begins with {operation} by {_brief(operand)}: it normalises by itself"
    draft.assume("input.scale", 1.0 if wants_bytes else 1 / 255, why)
    draft.assume("input.mean", (0.0,), why)
    draft.assume("input.std", (1.0,), why)


def _entry_operations(graph: onnx.GraphProto) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the arithmetic with constants that a graph begins with."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in nodes(graph):
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            constants[node.output[0]] = node.attribute[0].t
    current = graph.input[0].name
    while True:
        users = [node for node in graph.node if current in node.input]
        if len(users) != 1 or users[0].op_type not in _TRANSPARENT | _ARITHMETIC:
            return
        (user,) = users
        if user.op_type in _ARITHMETIC:
            operand = next((constants[name] for name in user.input if name in constants), None)
            if operand is None or np.prod(operand.dims, dtype=int) > max(_CHANNELS):
                return
            yield user.op_type, numpy_helper.to_array(operand)
        current = user.output[0]


def _brief(operand: NDArray[Any]) -> str:
    return ", ".join(f"{value:.4g}" for value in operand.reshape(-1))


def describe_ultralytics(model: onnx.ModelProto, draft: Draft) -> dict[str, Any]:
    """Note what Ultralytics writes into its files; return it, empty for other files.

    Its values are Python literals: names by class, ``imgsz`` as height and width, the task.
    """
    written = {entry.key: entry.value for entry in model.metadata_props}
    if "stride" not in written or "names" not in written:
        return {}
    known = {key: _literal(value) for key, value in written.items()}
    size = known.get("imgsz")
    size = [size, size] if isinstance(size, int) else size
    if isinstance(size, (list, tuple)) and len(size) == 2:  # noqa: PLR2004 - height and width
        for key, pixels in zip(("input.height", "input.width"), size, strict=True):
            if isinstance(pixels, int) and pixels > 0 and draft.get(key) is None:
                draft.assume(key, pixels, "the file's metadata names it as imgsz")
    return known


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
