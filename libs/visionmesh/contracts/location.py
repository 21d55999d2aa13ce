"""Where a payload lies."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from visionmesh.contracts.frozen import Frozen


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
