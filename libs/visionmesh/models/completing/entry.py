"""From the pixels of images to the network's input, in ONNX operators."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from visionmesh.models.completing.wiring import Wiring
from visionmesh.models.spec import InputSpec


def write_entry(wiring: Wiring, image: str, spec: InputSpec, *, resize: bool) -> str:
    """Return what the network takes of ``image``, (N, H, W, C) uint8.

    It is ``(pixel * scale - mean) / std`` in the network's layout and dtype, computed as the
    workers do: one product and one sum in float32. With ``resize`` images are first stretched,
    bilinearly without a prefilter, and rounded to whole brightnesses as uint8 pixels are.
    """
    planar = spec.layout == "NCHW"
    if spec.dtype == "uint8" and not resize:
        return wiring.add("Transpose", image, perm=[0, 3, 1, 2]) if planar else image
    # The cast comes first: TensorRT does nothing else with uint8.
    values = wiring.add("Cast", image, to=TensorProto.FLOAT)
    if planar or resize:
        values = wiring.add("Transpose", values, perm=[0, 3, 1, 2])
    if resize:
        values = _stretched(wiring, values, spec)
        if not planar:
            values = wiring.add("Transpose", values, perm=[0, 2, 3, 1])
    if spec.dtype != "uint8":
        values = _normalised(wiring, values, spec)
    if spec.dtype == "float32":
        return values
    return wiring.add("Cast", values, to=helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)))


def write_factor(wiring: Wiring, image: str, spec: InputSpec) -> str:
    """Return what takes ``x, y, x, y`` of the input to pixels of ``image``, (4,) float32."""
    size = wiring.add("Gather", wiring.add("Shape", image), wiring.whole([2, 1, 2, 1]), axis=0)
    given = wiring.add("Cast", size, to=TensorProto.FLOAT)
    return wiring.add("Div", given, wiring.numbers([spec.width, spec.height] * 2))


def _stretched(wiring: Wiring, values: str, spec: InputSpec) -> str:
    """Return (N, C, height, width) of (N, C, H, W)."""
    kept = wiring.part(wiring.add("Shape", values), 0, 2, axis=0)
    sizes = wiring.add("Concat", kept, wiring.whole([spec.height, spec.width]), axis=0)
    stretched = wiring.add(
        *("Resize", values, "", "", sizes),
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )
    return wiring.add("Round", stretched)


def _normalised(wiring: Wiring, values: str, spec: InputSpec) -> str:
    mean, std = np.array(spec.mean), np.array(spec.std)
    shape = (1, spec.channels, 1, 1) if spec.layout == "NCHW" else (1, 1, 1, spec.channels)
    for operator, terms, idle in (("Mul", spec.scale / std, 1.0), ("Add", -mean / std, 0.0)):
        if (terms != idle).any():
            each = np.broadcast_to(terms, spec.channels).reshape(shape)
            values = wiring.add(operator, values, wiring.numbers(each))
    return values
