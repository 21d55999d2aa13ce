"""From the pixels of images to the network's input, in ONNX operators."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from onnx import TensorProto, helper

from visionmesh.models.completing.resizing import Resized, write_resize
from visionmesh.models.completing.wiring import Wiring
from visionmesh.models.spec import InputSpec


class Entry(NamedTuple):
    """Names of what stands before a network."""

    values: str
    """What it takes."""
    resized: Resized | None = None
    """What was resized for it."""


def write_entry(wiring: Wiring, image: str, spec: InputSpec, *, resize: bool) -> Entry:
    """Return what the network takes of ``image``, (N, H, W, C) uint8.

    It is ``(pixel * scale - mean) / std`` in the network's layout and dtype, computed as the
    workers do: one product and one sum in float32. With ``resize`` images are first brought to the
    input's size.
    """
    planar = spec.layout == "NCHW"
    if spec.dtype == "uint8" and not resize:
        transposed = wiring.add("Transpose", image, perm=[0, 3, 1, 2]) if planar else image
        return Entry(transposed)
    # The cast comes first: TensorRT does nothing else with uint8.
    values = wiring.add("Cast", image, to=TensorProto.FLOAT)
    if planar or resize:
        values = wiring.add("Transpose", values, perm=[0, 3, 1, 2])
    resized = write_resize(wiring, image, values, spec) if resize else None
    if resized:
        values = resized.pixels
        if not planar:
            values = wiring.add("Transpose", values, perm=[0, 2, 3, 1])
    if spec.dtype != "uint8":
        values = _normalised(wiring, values, spec)
    if spec.dtype == "float32":
        return Entry(values, resized)
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    return Entry(wiring.add("Cast", values, to=dtype), resized)


def _normalised(wiring: Wiring, values: str, spec: InputSpec) -> str:
    mean, std = np.array(spec.mean), np.array(spec.std)
    shape = (1, spec.channels, 1, 1) if spec.layout == "NCHW" else (1, 1, 1, spec.channels)
    for operator, terms, idle in (("Mul", spec.scale / std, 1.0), ("Add", -mean / std, 0.0)):
        if (terms != idle).any():
            each = np.broadcast_to(terms, spec.channels).reshape(shape)
            values = wiring.add(operator, values, wiring.numbers(each))
    return values
