"""OpenVINO on the CPU: the second engine, which is faster for some networks and not for others."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from numpy.typing import NDArray

from services.infer.engines import Engine, Outputs, PlanStore
from services.infer.engines.host import HostEngine, NetworkError, give_back_memory
from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.spec import Instance, ModelSpec
from visionmesh.models.variants import Precision

# The package reports its import to its makers, and does without where this is not to be found.
sys.modules.setdefault("openvino_telemetry", cast(ModuleType, None))

import openvino  # noqa: E402 - see above


class _Network:
    """One infer request; those of one compiled network share its weights, and run in parallel."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        self._names = [output.any_name for output in compiled.outputs]
        first = compiled.inputs[0].partial_shape[0]
        self.batch = None if first.is_dynamic else first.get_length()

    def __call__(self, images: NDArray[Any]) -> Outputs:
        try:
            # With one thread the blocking call keeps an error to itself, and answers with what it
            # found in the image before.
            self._request.start_async([images], share_inputs=True)
            self._request.wait()
        except RuntimeError as error:
            raise NetworkError(_reason(error)) from error
        # The next image's answer will lie where this one's does.
        return {
            name: tensor.data.copy()
            for name, tensor in zip(self._names, self._request.output_tensors, strict=True)
        }


def open_engines(
    weights: Path,
    spec: ModelSpec,
    instance: Instance,
    *,
    count: int,
    precision: Precision,
    plans: PlanStore | None,
) -> tuple[Engine, ...]:
    """Return ``count`` engines on the CPU that share the weights in memory.

    ``bf16`` is computed from a network in float32; for others ``weights`` says what is computed.

    Raises
    ------
    ConfigurationError
        (model_invalid) if OpenVINO cannot load ``weights``.
    """
    try:
        compiled = openvino.Core().compile_model(
            weights, "CPU", _settings(instance, count, precision)
        )
    except RuntimeError as error:
        raise ConfigurationError(
            Code.MODEL_INVALID, f"OpenVINO cannot load model {spec.name!r}: {_reason(error)}"
        ) from error
    networks = [_Network(compiled) for _ in range(count)]
    give_back_memory()
    return tuple(HostEngine(network=network, spec=spec) for network in networks)


def _settings(instance: Instance, count: int, precision: Precision) -> dict[str, Any]:
    return {
        # A stream is what runs one request at a time, on threads of its own.
        "NUM_STREAMS": count,
        "INFERENCE_NUM_THREADS": count * instance.threads,
        "INFERENCE_PRECISION_HINT": "bf16" if precision is Precision.BF16 else "f32",
        # The cores are shared with the other stages: the system knows better which one is free.
        "ENABLE_CPU_PINNING": False,
        "ENABLE_HYPER_THREADING": True,
    }


def _reason(error: RuntimeError) -> str:
    """Return the error's text without the places in the source that it passed through."""
    lines = (line.strip() for line in str(error).splitlines())
    return " ".join(line for line in lines if line and not line.startswith("Exception from "))
