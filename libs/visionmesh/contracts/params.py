"""What a caller may ask for with one image."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from visionmesh.contracts.frozen import Frozen

Score = Annotated[float, Field(ge=0.0, le=1.0)]


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
