"""What travels between the stages."""

from __future__ import annotations

from pydantic import Field

from visionmesh.contracts.frozen import Frozen
from visionmesh.contracts.location import InlineLocation, Location
from visionmesh.contracts.params import Params, Priority, Want


class TensorMeta(Frozen):
    """One array of a payload. Arrays lie one behind the other, each aligned to 64 bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Placement(Frozen):
    """How the original lies in the model's input, in input pixels.

    A point of the original ``(x, y)`` is at ``(x * scale_x + offset_x, y * scale_y + offset_y)``
    of the input; offsets are negative where `crop` cut something off.
    """

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float


class Reference(Frozen):
    """One image on its way between two stages."""

    id: str
    source: str
    model: str
    version: int
    sha256: str
    """Of the encoded image, in hexadecimal."""
    params: Params = Params()
    priority: Priority = Priority.NORMAL
    deadline_ns: int | None = None
    """Unix time in nanoseconds after which the work is dropped."""
    ack: str | None = None
    """The ack subject of the EVENTS delivery; `None` for a synchronous request."""
    reply: str | None = None
    """The inbox of a synchronous request; `None` for an event."""
    result_key: str | None = None
    """Cache keys under which postprocess stores the answer and the features; `None`: not cached."""
    features_key: str | None = None
    want: Want = Want.RESULT
    home: str = ""
    """The caller's node, where its shared memory is: outputs may be handed over there."""
    features: bool = False
    """The payload is the decoder's reduced features from the cache, not the engine's outputs."""
    attempt: int = 1
    """How often the event was delivered, this time included."""
    traceparent: str | None = None
    """W3C context whose span id is that of the image's root span."""
    parent_span: str | None = None
    """The producer's span (16 hexadecimal digits), parent of the root span."""
    tracestate: str | None = None
    """What the producer's tracing system says besides."""
    received_ns: int = 0
    sent_ns: int = 0
    """When the reference was put into the present queue, Unix time in nanoseconds."""
    timings: dict[str, float] = Field(default_factory=dict)
    """Milliseconds, by stage and queue, so far."""
    width: int = 0
    """Of the original after EXIF orientation, in pixels; 0 until decoded."""
    height: int = 0
    placement: Placement | None = None
    tensors: tuple[TensorMeta, ...] = ()
    location: Location = InlineLocation(offset=0, length=0)
