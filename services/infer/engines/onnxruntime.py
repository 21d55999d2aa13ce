"""ONNX Runtime on the CPU."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from services.infer.engines import Engine, Outputs, PlanStore
from services.infer.engines.host import HostEngine, NetworkError, give_back_memory
from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.check import ort_errors, ort_reason
from visionmesh.models.spec import Instance, ModelSpec
from visionmesh.models.variants import Precision

_ERRORS = ort_errors()


class _Network:
    """A session; several engines with one thread each may share one."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name
        self._outputs = [output.name for output in session.get_outputs()]
        first = session.get_inputs()[0].shape[0]
        self.batch = first if isinstance(first, int) else None

    def __call__(self, images: NDArray[Any]) -> Outputs:
        try:
            answers = self._session.run(self._outputs, {self._input: images})
        except _ERRORS as error:
            raise NetworkError(ort_reason(error)) from error
        return dict(zip(self._outputs, answers, strict=True))


def open_engines(
    weights: Path,
    spec: ModelSpec,
    instance: Instance,
    *,
    count: int,
    precision: Precision,
    plans: PlanStore | None,
) -> tuple[Engine, ...]:
    """Return ``count`` engines on the CPU; those with one thread share the weights in memory.

    Raises
    ------
    ConfigurationError
        (model_invalid) if ONNX Runtime cannot load ``weights``, or cannot compute in ``precision``.
    """
    if precision is Precision.BF16:
        raise ConfigurationError(
            Code.MODEL_INVALID,
            f"ONNX Runtime cannot run model {spec.name!r} in bf16 on the CPU; OpenVINO can.",
        )
    # A session with one thread runs in its caller, so any number of callers may use it at once.
    # With more, each copy needs a pool of its own.
    distinct = 1 if instance.threads == 1 else count
    try:
        networks = [_Network(_session(weights, instance.threads)) for _ in range(distinct)]
    except _ERRORS as error:
        raise ConfigurationError(
            Code.MODEL_INVALID,
            f"ONNX Runtime cannot load model {spec.name!r}: {ort_reason(error)}.",
        ) from error
    give_back_memory()
    shared = networks * math.ceil(count / distinct)
    return tuple(HostEngine(network=network, spec=spec) for network in shared)


def _session(weights: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A thread that spins between two runs takes the core from the other stages.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
