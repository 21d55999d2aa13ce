"""Embeddings: a vector that lies near those of similar images."""

from __future__ import annotations

import numpy as np

from services.postprocess.decoders.protocol import (
    Array,
    Arrays,
    Parameters,
    misfit,
    pick,
    read_parameters,
    require_finite,
)
from services.postprocess.features import FeaturesError
from visionmesh.contracts import Answer, Params, Placement
from visionmesh.errors import Code, Reject
from visionmesh.models.spec import ModelSpec


class _Parameters(Parameters):
    normalize: bool = False
    """Scale the vector to length 1, so that products of two are their cosines."""


class Embedding:
    """Decodes D values of any shape whose other dimensions are 1."""

    floor = 0.0

    def __init__(self, spec: ModelSpec) -> None:
        self._own = read_parameters(_Parameters, spec)

    def reduce(self, outputs: Arrays) -> dict[str, Array]:
        output = pick(outputs, self._own.tensor)
        if not output.size or output.size != max(output.shape, default=1):
            raise misfit(f"embedding wants D values, and sees {output.shape}")
        with np.errstate(over="ignore"):  # refused at once
            vector = output.reshape(-1).astype(np.float32)
        require_finite(vector)
        if self._own.normalize:
            length = np.linalg.norm(vector.astype(np.float64))
            if not length:
                raise Reject(Code.MODEL_FAILED, "The embedding is 0 and cannot be normalised.")
            vector = (vector / length).astype(np.float32)
        return {"vector": vector}

    def answer(
        self, features: Arrays, params: Params, placement: Placement, width: int, height: int
    ) -> Answer:
        """Return the vector, each value with as many digits as tell it from the next float32."""
        vector = features.get("vector")
        if vector is None or vector.dtype != np.float32 or vector.ndim != 1:
            raise FeaturesError("the features are not a vector")
        if not np.isfinite(vector).all():
            raise FeaturesError("the features are not finite")
        return Answer(embedding=tuple(vector.astype(str).astype(np.float64).tolist()))
