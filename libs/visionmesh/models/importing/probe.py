"""Runs a network on made-up images, to see what it says and whether a change changed that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from visionmesh.models.check import ort_errors, ort_reason
from visionmesh.models.importing.wishes import misfit

Outputs = dict[str, NDArray[Any]]

BATCHES = (1, 2, 7)
"""The sizes at which a free batch is tried: none, the least, and no power of two."""
_TOLERANCE = 1e-4
"""Of an output's largest value: sums in another order differ by less, wrong images by far more."""
_BRIGHTEST = 255


def images(count: int, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Return ``count`` different images of noise, 0 to 255 as bytes or else 0 to 1."""
    noise = np.random.default_rng(0).random((count, *shape), np.float32)
    return (noise * _BRIGHTEST).astype(dtype) if dtype == "uint8" else noise.astype(dtype)


class Runner:
    """A network as it is, without optimisation."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Load ``model``; raise `ConfigurationError` (model_invalid) that tells why it cannot."""
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except ort_errors() as error:
            raise misfit(
                f"ONNX Runtime cannot load the network: {ort_reason(error)}; export it again"
            ) from error

    def __call__(self, batch: NDArray[Any]) -> Outputs:
        """Return the outputs; raise `ConfigurationError` (model_invalid) if it fails."""
        names = [output.name for output in self._session.get_outputs()]
        try:
            answers = self._session.run(names, {self._session.get_inputs()[0].name: batch})
        except ort_errors() as error:
            raise misfit(
                f"The network fails on images of shape {batch.shape}: {ort_reason(error)}; "
                "name the right size with --input"
            ) from error
        return dict(zip(names, answers, strict=True))


def agrees_in_batches(single: Runner, batched: Runner, images: NDArray[Any]) -> bool:
    """Say whether ``batched`` says of several images what ``single`` says of each alone.

    Raises
    ------
    ConfigurationError
        (model_invalid) if one of them fails.
    """
    alone = [single(images[at : at + 1]) for at in range(max(BATCHES))]
    if any(array.shape[:1] != (1,) for outputs in alone for array in outputs.values()):
        return False
    for size in BATCHES:
        together = batched(images[:size])
        for at in range(size):
            one = {name: array[at : at + 1] for name, array in together.items()}
            if any(len(array) != size for array in together.values()) or not agree(alone[at], one):
                return False
    return True


def agree(one: Mapping[str, NDArray[Any]], other: Mapping[str, NDArray[Any]]) -> bool:
    """Say whether two sets of outputs are the same but for rounding."""
    return one.keys() == other.keys() and all(_close(one[name], other[name]) for name in one)


def _close(one: NDArray[Any], other: NDArray[Any]) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    largest = float(np.abs(one).max(initial=0, where=np.isfinite(one)))
    slack = _TOLERANCE * (10 if one.dtype == np.float16 else 1) * max(largest, 1e-6)
    return bool(np.allclose(one, other, rtol=0, atol=slack, equal_nan=True))


def first_line(error: Exception) -> str:
    """Return what an error says, without what follows on further lines."""
    return str(error).strip().partition("\n")[0].rstrip(".")
