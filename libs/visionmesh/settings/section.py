"""What the settings of every service share."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from visionmesh.gpu.opening import is_gpu

MEBIBYTE = 1 << 20


def require_device(device: str) -> str:
    """Return the name of a device; raise `ValueError` if it is none."""
    if device != "cpu" and not is_gpu(device):
        raise ValueError(f"{device!r} is no device; one is cpu, cuda, cuda:1, cuda:<uuid>")
    return device


Device = Annotated[str, AfterValidator(require_device)]
"""Where a service works: ``cpu``, or a GPU as `visionmesh.gpu.open_gpu` takes it."""


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


class DeviceSettings(ServiceSettings):
    """What the services have that may work on a GPU."""

    devices: Annotated[
        tuple[Device, ...],
        Field(description="a process for each under `visionmesh up`, which sees that one only"),
    ] = ()
    device_arena_bytes: Annotated[
        int, Field(ge=MEBIBYTE, description="of a GPU's memory, for what the process writes")
    ] = 256 * MEBIBYTE
