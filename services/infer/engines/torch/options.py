"""What ``options`` of an instance may say to this engine."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

import torch
from pydantic import Field

from services.infer.engines.options import EngineOptions
from visionmesh.durations import Duration


class Options(EngineOptions):
    """``options`` of an instance."""

    engine = "torch"

    compile: bool = False
    """Compile with TorchInductor: once for each batch size, while the model is loaded."""
    mode: Literal["default", "max-autotune-no-cudagraphs"] = "default"
    """Of the compiler; graphs are captured here, and not by it."""
    graphs: bool = True
    """On CUDA, capture one graph for each batch size."""
    autocast: Literal["", "float16", "bfloat16"] = ""
    """Compute so what bears it; without it in the program's own types."""
    tensor_parallel: Annotated[int, Field(ge=1, le=64)] = 1
    """Ranks that share the heads and units of each layer, on as many devices."""
    plan: str = ""
    """Patterns of the row-wise layers to share out, ``*.attn.proj,*.mlp.fc2``; empty: all that
    can be."""
    timeout: Duration = timedelta(seconds=30)
    """For how long ranks wait for each other before they give up."""
    load_timeout: Duration = timedelta(minutes=10)
    """For how long they may load, compile and capture."""

    @property
    def halves(self) -> torch.dtype | None:
        """What `autocast` names."""
        return getattr(torch, self.autocast) if self.autocast else None

    @property
    def patterns(self) -> tuple[str, ...]:
        return tuple(pattern.strip() for pattern in self.plan.split(",") if pattern.strip())
