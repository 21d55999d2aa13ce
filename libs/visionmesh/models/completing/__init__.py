"""Networks as whole files for other runtimes: from an image's pixels to boxes or scores."""

from __future__ import annotations

from visionmesh.models.completing.checking import complete_checks
from visionmesh.models.completing.complete import COMPLETE_FILE, Completed, complete
from visionmesh.models.completing.parts import Part

__all__ = ["COMPLETE_FILE", "Completed", "Part", "complete", "complete_checks"]
