"""What makes a network's last values scores."""

from __future__ import annotations

from typing import Literal

import numpy as np

from services.postprocess.decoders.protocol import Array

Activation = Literal["softmax", "sigmoid", "none"]
"""`none` where the network's values are scores already."""


def activate(values: Array, activation: Activation) -> Array:
    """Return the scores that float ``values`` stand for; softmax runs along the last axis.

    What is not finite stays so: `require_scores` refuses it.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        match activation:
            case "softmax":
                powers = np.exp(values - values.max(axis=-1, keepdims=True, initial=-np.inf))
                scores: Array = powers / powers.sum(axis=-1, keepdims=True)
            case "sigmoid":
                scores = 1 / (1 + np.exp(-values))
            case _:
                scores = values
        return scores
