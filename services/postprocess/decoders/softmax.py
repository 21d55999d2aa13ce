"""Classification: one score per class, the best of them named."""

from __future__ import annotations

import numpy as np

from services.postprocess.decoders.activations import Activation, activate
from services.postprocess.decoders.protocol import (
    Array,
    Arrays,
    Parameters,
    label,
    misfit,
    pick,
    read_parameters,
    require_scores,
)
from services.postprocess.features import FeaturesError
from visionmesh.contracts import Answer, ClassScore, Params, Placement
from visionmesh.models.spec import ModelSpec

_KEPT = 1000
"""Classes in the features: the largest ``top_k`` that `Params` allows."""

_DECIMALS = 6
"""What a float32 holds of a score."""


class _Parameters(Parameters):
    activation: Activation = "softmax"


class Softmax:
    """Decodes C values of any shape whose other dimensions are 1.

    The model's ``top_k`` or the producer's says how many classes are named. Only the producer's
    ``confidence`` drops the less sure ones: the model's is a detector's.
    """

    floor = 0.0

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        parameters = read_parameters(_Parameters, spec)
        self._tensor = parameters.tensor
        self._activation = parameters.activation

    def reduce(self, outputs: Arrays) -> dict[str, Array]:
        output = pick(outputs, self._tensor)
        labels = len(self._spec.labels)
        if output.size != max(output.shape, default=1) or output.size != (labels or output.size):
            raise misfit(f"softmax wants {labels or 'C'} values, and sees {output.shape}")
        scores = activate(output.reshape(-1).astype(np.float64), self._activation)
        require_scores(scores)
        best = np.argsort(-scores, kind="stable")[:_KEPT]
        return {
            "scores": scores[best].clip(0, 1).astype(np.float32),
            "classes": best.astype(np.min_scalar_type(output.size)),
        }

    def answer(
        self, features: Arrays, params: Params, placement: Placement, width: int, height: int
    ) -> Answer:
        scores, classes = self._read(features)
        count = params.top_k or self._spec.output.top_k
        named = zip(scores[:count].tolist(), classes[:count].tolist(), strict=True)
        least = params.confidence or 0.0
        return Answer(
            classes=tuple(
                ClassScore(label=label(self._spec.labels, index), score=round(score, _DECIMALS))
                for score, index in named
                if score >= least
            )
        )

    def _read(self, features: Arrays) -> tuple[Array, Array]:
        try:
            scores, classes = features["scores"], features["classes"]
        except KeyError as error:
            raise FeaturesError(f"a classifier's features have {error}") from error
        labels = self._spec.labels
        if scores.ndim != 1 or scores.shape != classes.shape:
            raise FeaturesError("the features are not the scores of a classifier")
        if labels and len(classes) and classes.max() >= len(labels):
            raise FeaturesError(f"the features know more classes than {self._spec.name!r}")
        return scores, classes
