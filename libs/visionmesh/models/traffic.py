"""Which versions of a model answer, which one only looks on, and which answered before."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from visionmesh.contracts import Frozen

Weight = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Weights = dict[int, Weight]
"""Weight by version; only their proportions count."""


class Sticky(StrEnum):
    """What always gets the same version while weights and versions stay."""

    ID = "id"
    """An image: the same id, the same version."""
    SOURCE = "source"
    """All images of one source."""


class Traffic(Frozen):
    weights: Weights = Field(default_factory=dict)
    """Empty: everything goes to the newest."""
    sticky: Sticky = Sticky.ID
    shadow: int | None = None
    """A version that gets a copy of each image; its results go to nobody who asked."""
    before: Weights = Field(default_factory=dict)
    """The weights before the last change of the versions that answer; what a rollback restores."""
