"""From the input of a request to its images, each of which goes its own way."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from services.ingest.oip.binary import IMAGE
from services.ingest.oip.describe import input_tensor
from services.ingest.oip.request import InferRequest, fault
from services.ingest.oip.tensors import BYTES, DATATYPES, Tensor
from visionmesh.contracts import PIXELS, TensorMeta, Want
from visionmesh.errors import Reject
from visionmesh.events import Event, parse_id
from visionmesh.models.record import VersionRecord

MAX_IMAGES = 64
"""Of one request."""
_NETWORK = "input"
"""What the mesh calls a network's own tensor; any name but `PIXELS`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Images of one kind: ``tensor`` is `None` for encoded ones, else of each."""

    bodies: tuple[bytes, ...]
    tensor: TensorMeta | None = None

    @property
    def prepared(self) -> bool:
        """Say whether these are the network's own input."""
        return self.tensor is not None and self.tensor.name != PIXELS


def read_images(request: InferRequest, version: VersionRecord) -> Images:
    """Return the images of a request.

    Raises
    ------
    Reject
        (invalid_request) if it has not exactly one input of those that the model takes.
    """
    if len(request.inputs) != 1:
        raise fault(f"Send exactly one input: {_inputs(version)}.")
    tensor, own = request.inputs[0], input_tensor(version)
    if tensor.name == own.name and tensor.datatype == DATATYPES[own.dtype]:
        return _network_inputs(tensor, own)
    if tensor.name == IMAGE:
        return _encoded(tensor)
    if tensor.name == PIXELS:
        return _pixels(tensor)
    if tensor.name == own.name:
        raise fault(f"{own.name} must be {DATATYPES[own.dtype]}, not {tensor.datatype}.")
    raise fault(f"There is no input {tensor.name!r}; send one of {_inputs(version)}.")


def events(
    request: InferRequest,
    images: Images,
    *,
    model: str,
    source: str,
    want: Want,
    deadline_ns: int | None,
    traceparent: str | None,
    tracestate: str | None,
) -> list[Event]:
    """Return one event for each image; ids are that of the request where it can be one."""
    options = request.options
    ids = _ids(request.id, len(images.bodies))
    return [
        Event(
            id=id,
            source=source,
            model=model,
            image=body,
            params=options.params,
            priority=options.priority,
            deadline_ns=deadline_ns,
            traceparent=traceparent,
            tracestate=tracestate,
            tensor=images.tensor,
            want=want,
        )
        for id, body in zip(ids, images.bodies, strict=False)
    ]


def _encoded(tensor: Tensor) -> Images:
    if tensor.datatype != BYTES:
        raise fault(f"{IMAGE} must be {BYTES}, encoded images, not {tensor.datatype}.")
    if len(tensor.shape) > 1 and tensor.shape[1:] != (1,):
        raise fault(f"{IMAGE} must have the shape [N], not {list(tensor.shape)}.")
    _require_some(tensor)
    return Images(bodies=tensor.texts)


def _pixels(tensor: Tensor) -> Images:
    match tensor.shape:
        case (_, _, _, 3) if tensor.datatype == "UINT8":
            return _split(tensor, PIXELS)
    raise fault(f"{PIXELS} must be UINT8 of the shape [N, H, W, 3], in the order RGB.")


def _network_inputs(tensor: Tensor, own: TensorMeta) -> Images:
    if tensor.shape[1:] != own.shape:
        sizes = ", ".join(map(str, ("N", *own.shape)))
        raise fault(f"{own.name} must have the shape [{sizes}], not {list(tensor.shape)}.")
    return _split(tensor, _NETWORK)


def _split(tensor: Tensor, name: str) -> Images:
    assert tensor.array is not None
    _require_some(tensor)
    meta = TensorMeta(name=name, dtype=tensor.array.dtype.name, shape=tensor.shape[1:])
    if tensor.raw is not None and len(tensor.array) == 1:
        return Images(bodies=(tensor.raw,), tensor=meta)
    return Images(bodies=tuple(one.tobytes() for one in tensor.array), tensor=meta)


def _require_some(tensor: Tensor) -> None:
    if not 1 <= tensor.shape[0] <= MAX_IMAGES:
        raise fault(f"A request may have 1 to {MAX_IMAGES} images, not {tensor.shape[0]}.")


def _inputs(version: VersionRecord) -> str:
    own = input_tensor(version)
    return f"{IMAGE} ({BYTES}), {PIXELS} (UINT8), {own.name} ({DATATYPES[own.dtype]})"


def _ids(id: str, count: int) -> Iterator[str]:
    try:
        stem = parse_id(id)
    except Reject:
        stem = uuid.uuid4().hex
    if count == 1:
        yield stem
    else:
        yield from (f"{stem}.{number}" for number in range(count))
