"""What ``options`` of an instance may say to this engine."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

import torch
from pydantic import Field, ValidationError

from visionmesh.contracts import Frozen
from visionmesh.durations import Duration
from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.spec import Instance, ModelSpec


class Options(Frozen):
    """``options`` of an instance."""

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


def read_options(spec: ModelSpec, instance: Instance) -> Options:
    """Return the validated options; raise `ConfigurationError` (model_invalid) that names a key."""
    try:
        return Options.model_validate(instance.options)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ConfigurationError(
            Code.MODEL_INVALID,
            f"{spec.name}/model.yaml: instances: options.{key}: {first['msg']}; the engine torch "
            f"knows: {', '.join(Options.model_fields)}.",
        ) from error
