"""What consumers receive."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from visionmesh.contracts.frozen import Frozen
from visionmesh.contracts.params import Score
from visionmesh.errors import Code

if TYPE_CHECKING:
    from collections.abc import Sequence

    from visionmesh.pictures_in import Picture, Pixels

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
