"""Images that come as tensors: pixels, or the network's own input."""

from __future__ import annotations

from visionmesh.contracts import PIXELS, TensorMeta
from visionmesh.errors import Code, Reject
from visionmesh.models.spec import InputSpec
from visionmesh.tensors import plan

_CHANNELS = 3


def input_meta(name: str, spec: InputSpec) -> TensorMeta:
    """Return what one image is to the network: its own layout and dtype, without the batch."""
    if spec.layout == "NCHW":
        shape = (spec.channels, spec.height, spec.width)
    else:
        shape = (spec.height, spec.width, spec.channels)
    return TensorMeta(name=name, dtype=spec.dtype, shape=shape)


def require_tensor(tensor: TensorMeta, body: bytes, spec: InputSpec) -> None:
    """Raise `Reject` (invalid_request, image_empty) if the body is no such image of the model."""
    if tensor.name == PIXELS:
        if tensor.dtype != "uint8" or len(tensor.shape) != 3 or tensor.shape[2] != _CHANNELS:  # noqa: PLR2004 - (H, W, C)
            raise _misfit(tensor, "pixels are uint8 (height, width, 3), RGB")
        if 0 in tensor.shape:
            raise Reject(Code.IMAGE_EMPTY, "The image has no pixels: send at least 1.")
    else:
        wanted = input_meta(tensor.name, spec)
        if tensor != wanted:
            raise _misfit(tensor, f"one image is {wanted.dtype} {wanted.shape} to this model")
    if plan((tensor,))[1] != len(body):
        raise _misfit(tensor, f"{len(body):,} bytes came, not {plan((tensor,))[1]:,}")


def _misfit(tensor: TensorMeta, why: str) -> Reject:
    shown = f"{tensor.dtype} {tensor.shape}"
    return Reject(Code.INVALID_REQUEST, f"The tensor {tensor.name!r} is {shown}: {why}.")
