"""What is asked of ONNX graphs wherever they are read, changed or written."""

from __future__ import annotations

import onnx
from onnx import version_converter

OPSET = 17
"""What older networks become: the first with all operators of the usual layers."""
IR_VERSION = 8
"""That of the opset's time; from 4 on initialisers need not be inputs."""
CANNOT_RAISE = (RuntimeError, ValueError, version_converter.ConvertError)
"""What ONNX says of operators that it cannot convert."""


def opset(model: onnx.ModelProto) -> int:
    """Return the version of ONNX' own operators that ``model`` uses; `OPSET` if it uses none."""
    return max(
        (entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
        default=OPSET,
    )


def raised(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``model`` with the operators of `OPSET`; raise `CANNOT_RAISE` if there are none."""
    return version_converter.convert_version(model, OPSET)


def fixed_batch(model: onnx.ModelProto) -> int | None:
    """Return the only batch size that the input takes; `None`: any."""
    first = model.graph.input[0].type.tensor_type.shape.dim[0]
    return first.dim_value if first.dim_value > 0 else None
