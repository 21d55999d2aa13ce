"""What ``options`` of an instance may say to this engine."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import ByteSize, Field

from services.infer.engines.options import EngineOptions
from visionmesh.contracts import Frozen
from visionmesh.durations import Duration


class BuildOptions(Frozen):
    """Those that make another plan of the same network."""

    runtime: Literal["tensorrt", "tensorrt_rtx"] = "tensorrt"
    """The Python package: TensorRT, or TensorRT for RTX, which has the same interface."""
    profiles: Literal["each", "one"] = "each"
    """``each``: every batch size is built and timed for itself, which takes as many times as long;
    ``one``: kernels take any size, and are tuned for the largest."""
    workspace: Annotated[ByteSize, Field(gt=0)] = ByteSize(4 << 30)
    """Bytes of the device that one layer may use besides its tensors: more would take away what
    others on the device live on, and faster kernels that want more are rare."""
    tf32: bool = True
    """Multiply float32 with 10 bits of mantissa, as TensorRT does unless it is told otherwise."""
    level: Annotated[int, Field(ge=0, le=5)] = 3
    """How much is tried while building; 3 is TensorRT's own choice, 5 takes the longest."""


class Options(BuildOptions, EngineOptions):
    """``options`` of an instance."""

    engine = "tensorrt"

    precision: Literal["auto", "fp32", "fp16", "int8"] = "auto"
    """Which of the version's networks is run; ``auto``: the smallest that was found right."""
    graphs: bool = True
    """Capture one CUDA graph for each batch size, which is launched at once."""
    timeout: Duration = timedelta(hours=1)
    """For how long it may be built."""

    @property
    def build(self) -> BuildOptions:
        return BuildOptions.model_validate(self.model_dump(include=set(BuildOptions.model_fields)))
