"""What the settings of every service share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MEBIBYTE = 1 << 20


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ServiceSettings(Section):
    """What every service has."""

    replicas: Annotated[int, Field(ge=0, le=64, description="processes under `visionmesh up`")] = 1
    port: Annotated[
        int, Field(ge=0, le=65535, description="of /healthz, /readyz and /metrics; 0: any free")
    ] = 0
    concurrency: Annotated[int, Field(ge=1, description="messages in hand at once")] = 64
    arena_bytes: Annotated[int, Field(ge=MEBIBYTE, description="of the writer's shm slab")] = (
        64 * MEBIBYTE
    )
    nice: Annotated[int, Field(ge=0, le=19, description="niceness of the process")] = 0
