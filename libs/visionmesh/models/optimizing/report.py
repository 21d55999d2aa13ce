"""What `optimize` made, and what it is worth."""

from __future__ import annotations

from typing import Literal

from visionmesh.contracts import Frozen
from visionmesh.models.agreement import MOST_LOST
from visionmesh.models.trial import Trial
from visionmesh.models.variants import Precision


class Original(Frozen):
    """The network that was begun with."""

    file: str
    size_bytes: int
    accuracy: float | None
    """Share of held-out images whose first class is the true one, where the truth is known."""
    ms: float
    """Median time of one image."""


class Made(Frozen):
    """One artefact, compared with the original on the held-out images."""

    file: str
    precision: Precision
    scheme: Literal["u8s8", "s8s8", "fp16"]
    size_bytes: int
    smaller: float
    """Bytes of the original by bytes of this."""
    trial: Trial
    lost: float
    """Of the accuracy, where the truth is known, else of the equal answers; from 0 to 1."""
    ms: float
    """Median time of one image, measured in turns with the original."""
    faster: float
    """Time of the original by time of this, on this machine."""
    in_float: tuple[str, ...]
    """Layers that were kept in float32."""

    @property
    def is_right(self) -> bool:
        return self.lost <= MOST_LOST and not self.trial.agreement.broken


class Report(Frozen):
    """The answer of `optimize`."""

    model: str
    version: int
    calibration: int
    """Images that the ranges of values were measured on."""
    held_out: int
    """Other images, which everything else was measured on."""
    skipped: tuple[str, ...]
    """Files that are no images."""
    cpu: str
    """Where the times were measured, with one thread."""
    original: Original
    made: tuple[Made, ...]
    promoted: tuple[str, ...]
    """The files that the version's ``variants.json`` names now."""
    runs: str
    """How a worker on such a machine runs the version from now on, and why."""
