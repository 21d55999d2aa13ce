"""The values that travel: parameters, references between the stages, and results.

All are frozen. A `Reference` travels between the stages, and consumers receive a `Result`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from visionmesh.errors import Code

if TYPE_CHECKING:
    from collections.abc import Sequence

    from visionmesh.pictures_in import Picture, Pixels

Score = Annotated[float, Field(ge=0.0, le=1.0)]


class Frozen(BaseModel):
    """A value: immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Priority(StrEnum):
    HIGH = "high"
    NORMAL = "normal"


class Want(StrEnum):
    """What a caller wants of an image."""

    RESULT = "result"
    TENSORS = "tensors"
    """The network's outputs as they are, and no result."""
    BOTH = "both"


PIXELS = "pixels"
"""The name of an image that is not encoded: ``(H, W, 3) uint8``, RGB."""


class Params(Frozen):
    """What a producer may ask for with one image; absent values are the model's own."""

    confidence: Score | None = None
    """The least score of a detection; below the decoder's ``floor`` (0.05) it counts as that."""
    iou: Score | None = None
    top_k: Annotated[int, Field(ge=1, le=1000)] | None = None
    max_detections: Annotated[int, Field(ge=1, le=10_000)] | None = None


class ShmLocation(Frozen):
    """Bytes in a slab under /dev/shm: valid while the first slot still has this generation."""

    arena: str
    slot: int
    generation: int
    length: int


class CudaLocation(Frozen):
    """Bytes in a GPU's memory: valid as a `ShmLocation` is, and while their owner lives."""

    kind: Literal["cuda"]
    """Never left out: nothing else tells it from a `ShmLocation`."""
    arena: str
    """The slab under /dev/shm that tells the device, and its memory's handle."""
    slot: int
    generation: int
    length: int


class InlineLocation(Frozen):
    """Bytes in the body of the message that carries the reference."""

    offset: int
    length: int


# In this order those of a node without GPUs are told apart as fast as if there were no other.
Location = Annotated[ShmLocation | InlineLocation | CudaLocation, Field(union_mode="left_to_right")]


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


Box = tuple[float, float, float, float]
"""``(x1, y1, x2, y2)`` in pixels of the original image, clipped to it."""


Point = tuple[float, float]
"""``(x, y)`` in pixels of the original image."""


class Rle(Frozen):
    """A mask over the whole original image, run-length encoded as in COCO."""

    size: tuple[int, int]
    """Height and width."""
    counts: str
    """Runs of background and foreground in turn, column by column, in COCO's compressed form."""


class Detection(Frozen):
    label: str
    score: Score
    box: Box
    corners: tuple[Point, Point, Point, Point] | None = None
    """Of an oriented box, clockwise; `box` is what they span."""
    mask: Rle | None = None


class Region(Frozen):
    """The pixels of one class."""

    label: str
    share: Annotated[float, Field(ge=0.0, le=1.0)]
    """Of the image's area."""
    mask: Rle


class Heatmap(Frozen):
    """How unusual each place of the image is: a grey PNG in the object store `vm_heatmaps`."""

    sha256: str
    """Of the PNG, and the object's name."""
    width: int
    height: int
    low: float
    """The value that is black, and the one that is white; what lies between is linear."""
    high: float
    png: bytes = Field(default=b"", exclude=True, repr=False)
    """The PNG itself, until it is stored; it does not travel with the result."""


class ClassScore(Frozen):
    label: str
    score: Score


class ImageInfo(Frozen):
    width: int
    height: int
    sha256: str


class CacheInfo(Frozen):
    hit: bool
    level: Literal["result", "features", "flight", "near"] | None = None


class ErrorInfo(Frozen):
    code: Code
    message: str


class Status(StrEnum):
    OK = "ok"
    ERROR = "error"
    EXPIRED = "expired"


class Answer(Frozen):
    """What was recognised: the part of a result that depends on image, model and parameters only.

    Fields that the model's task lacks are `None` and absent from the JSON.
    """

    detections: tuple[Detection, ...] | None = None
    classes: tuple[ClassScore, ...] | None = None
    regions: tuple[Region, ...] | None = None
    heatmap: Heatmap | None = None
    embedding: tuple[float, ...] | None = None

    def recognised(self) -> dict[str, Any]:
        """Return the fields of an answer, also of a subclass, by name."""
        return {name: getattr(self, name) for name in Answer.model_fields}


class Result(Answer):
    """The one answer to one accepted event."""

    id: str
    source: str
    model: str
    version: int | None = None
    status: Status
    time: datetime = Field(default_factory=lambda: datetime.now(UTC))
    image: ImageInfo | None = None
    cache: CacheInfo | None = None
    timings: dict[str, float] = Field(default_factory=dict)
    """Milliseconds, by stage (`preprocess`), queue (`preprocess_queue`) and in `total`."""
    error: ErrorInfo | None = None
    trace_id: str | None = None
    sequence: int | None = Field(default=None, exclude=True)
    """Behind which a reader may go on with nothing left out; set by `Mesh.results`."""

    def draw(self, image: Picture, *, heatmap: bytes | None = None) -> Pixels:
        """Return a copy of ``image`` with what was recognised drawn on it; needs OpenCV.

        ``image`` is the one that the result speaks of, as it was published; ``heatmap`` is what
        `Mesh.heatmap` returns of an anomaly model.

        Returns
        -------
        ``(H, W, 3) uint8``, RGB.

        Raises
        ------
        ValueError
            If ``image`` cannot be decoded, or is an array of another shape or type.
        """
        from visionmesh.pictures_out import draw_on  # noqa: PLC0415 - only who draws needs OpenCV

        return draw_on(image, self, heatmap=heatmap)

    def to_supervision(self, labels: Sequence[str] | None = None) -> Any:
        """Return the detections as ``supervision.Detections``; needs the package supervision.

        ``class_id`` is the label's place in ``labels``; without them a number made of its name,
        which is the same in every result. The names are in ``data["class_name"]``, the corners of
        oriented boxes in ``data["xyxyxyxy"]``.
        """
        from visionmesh.pictures_out import to_supervision  # noqa: PLC0415 - as above

        return to_supervision(self, labels)

    def to_json(self) -> bytes:
        """Return the document that travels on RESULTS."""
        return self.__pydantic_serializer__.to_json(self, exclude_none=True)
