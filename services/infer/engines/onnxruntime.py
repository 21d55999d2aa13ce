"""ONNX Runtime on the CPU."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from services.infer.engines import Engine, Image, Outputs
from services.infer.pixels import PixelWriter
from visionmesh.errors import Code, ConfigurationError, Fatal, Reject
from visionmesh.models.check import ort_errors
from visionmesh.models.spec import Instance, ModelSpec

_ERRORS = ort_errors()


class OnnxRuntimeEngine:
    """Runs a session; several engines with one thread each may share one."""

    def __init__(self, *, session: Any, spec: ModelSpec) -> None:
        self._session = session
        self._name = spec.name
        self._input = session.get_inputs()[0].name
        self._outputs = [output.name for output in session.get_outputs()]
        fixed = session.get_inputs()[0].shape[0]
        self._sizes = (
            (fixed,) if isinstance(fixed, int) else tuple(range(1, spec.batching.max_size + 1))
        )
        self._writer = PixelWriter(spec.input)
        self._batch = self._writer.batch(self._sizes[-1])

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        return self._sizes

    def run(self, images: Sequence[Image]) -> Outputs:
        size = next(size for size in self._sizes if size >= len(images))
        for image, target in zip(images, self._batch, strict=False):
            self._writer.write(image, target)
        try:
            outputs = self._call(size)
        except _ERRORS as error:
            self._require_health(error)
            raise Reject(
                Code.MODEL_FAILED, f"Model {self._name!r} fails on the image: {error}"
            ) from error
        # What a fixed batch was filled up with is nobody's.
        return {name: array[: len(images)] for name, array in outputs.items()}

    def warm(self) -> None:
        self._batch.fill(0)
        for size in self._sizes:
            try:
                outputs = self._call(size)
            except _ERRORS as error:
                raise ConfigurationError(
                    Code.MODEL_INVALID,
                    f"Model {self._name!r} does not run with a batch of {size}: {error}",
                ) from error
            for name, array in outputs.items():
                if array.shape[:1] != (size,):
                    raise ConfigurationError(
                        Code.MODEL_INVALID,
                        f"Model {self._name!r} answers {size} images with an output {name!r} of "
                        f"shape {array.shape}; its first dimension must be the batch.",
                    )

    def close(self) -> None:
        self._session = None

    def _call(self, size: int) -> Outputs:
        answers = self._session.run(self._outputs, {self._input: self._batch[:size]})
        return dict(zip(self._outputs, answers, strict=True))

    def _require_health(self, error: Exception) -> None:
        """Raise `Fatal` unless the network still works on an empty image."""
        self._batch.fill(0)
        try:
            self._call(self._sizes[0])
        except _ERRORS as again:
            raise Fatal(
                Code.MODEL_FAILED, f"Model {self._name!r} does not work any more: {error}"
            ) from again


def open_engines(
    weights: Path, spec: ModelSpec, instance: Instance, *, count: int
) -> tuple[Engine, ...]:
    """Return ``count`` engines on the CPU; those with one thread share the weights in memory.

    Raises
    ------
    ConfigurationError
        (model_invalid) if ONNX Runtime cannot load ``weights``.
    """
    # A session with one thread runs in its caller, so any number of callers may use it at once.
    # With more, each copy needs a pool of its own.
    distinct = 1 if instance.threads == 1 else count
    try:
        sessions = [_session(weights, instance.threads) for _ in range(distinct)]
    except _ERRORS as error:
        raise ConfigurationError(
            Code.MODEL_INVALID, f"ONNX Runtime cannot load model {spec.name!r}: {error}"
        ) from error
    _give_back_memory()
    shared = sessions * math.ceil(count / distinct)
    return tuple(OnnxRuntimeEngine(session=session, spec=spec) for session in shared)


def _session(weights: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A thread that spins between two runs takes the core from the other stages.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])


def _give_back_memory() -> None:
    """Return to the system what loading needed: as much again as the weights, which glibc keeps."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
