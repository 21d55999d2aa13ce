"""What can be put into a network's graph, and what then says so in the file."""

from __future__ import annotations

import hashlib
from enum import StrEnum

from visionmesh.models.spec import ModelSpec

IMAGE = "image"
"""The input of a file with `Part.PREPROCESS`: ``(N, H, W, C) uint8``."""
SCORES, BOXES, CLASSES, BATCH = "scores", "boxes", "classes", "batch"
"""The outputs of a file with `Part.POSTPROCESS`."""

PARTS_KEY, NETWORK_KEY, SPEC_KEY = (f"visionmesh.{key}" for key in ("embed", "network", "spec"))
"""Metadata of the file: its parts, and digests of what it was made from."""
PIXELS_KEY = "visionmesh.pixels"
"""Metadata of a file with `Part.RESIZE`: the value with the resized pixels."""
LABELS_KEY = "labels"
"""Metadata of the file: a JSON list."""


class Part(StrEnum):
    """One piece of work that the file does itself."""

    PREPROCESS = "preprocess"
    """Normalise, and bring into the network's layout."""
    RESIZE = "resize"
    """Bring images of any size to the input's, and boxes back to theirs."""
    POSTPROCESS = "postprocess"
    """Make scores, or boxes that do not cover each other."""


def spec_digest(spec: ModelSpec) -> str:
    """Return a digest of all that the file has from ``spec``."""
    told = [spec.input.model_dump_json(), spec.output.model_dump_json(), *spec.labels]
    return hashlib.sha256("\0".join(told).encode()).hexdigest()
