"""What a build is told, and what it tells: one JSON document each way, a line each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from services.infer.engines.tensorrt.options import BuildOptions
from visionmesh.contracts import Frozen


class Job(Frozen):
    """A plan to build; it comes on the standard input."""

    weights: Path
    plan: Path
    """Where the plan is written."""
    timings: Path | None
    """What was measured of kernels before; read, and written again."""
    device: str
    """A name for `open_gpu`."""
    capability: tuple[int, int] | None = None
    """Build for such devices with no GPU at hand; then ``device`` is not opened."""
    shape: tuple[int, ...]
    """Of one image, in the network's layout: what a free side of the network becomes."""
    sizes: tuple[int, ...]
    """Batch sizes, ascending; of a network that takes one only, that one counts."""
    options: BuildOptions


class Progress(Frozen):
    """How far the build is."""

    kind: Literal["progress"] = "progress"
    share: float
    """Between 0 and 1."""
    phase: str


class Failed(Frozen):
    """There will be no plan."""

    kind: Literal["failed"] = "failed"
    reason: str
    memory: bool = False
    """As the device has too little of it."""


class Built(Frozen):
    """The plan is written."""

    kind: Literal["built"] = "built"
    nbytes: int
    seconds: float


Message = Annotated[Progress | Failed | Built, Field(discriminator="kind")]
MESSAGES: TypeAdapter[Progress | Failed | Built] = TypeAdapter(Message)
