"""What ONNX Runtime computes with on a device: its execution providers and their options."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

import onnxruntime
from pydantic import Field

from services.infer.engines.host import NetworkError
from services.infer.engines.options import EngineOptions
from visionmesh.errors import Code, ConfigurationError
from visionmesh.gpu import Gpu, GpuError, Stream
from visionmesh.gpu.gpu import GpuMemoryError
from visionmesh.models.artifacts import caches_of
from visionmesh.models.check import ort_errors, ort_reason
from visionmesh.models.spec import Instance, ModelSpec

ERRORS: tuple[type[Exception], ...] = (*ort_errors(), RuntimeError)
"""What ONNX Runtime raises; runs with bound memory raise the latter."""

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_ABOUT_GRAPHS = "graph capture"
_NO_MEMORY = re.compile(
    r"out of memory|[Ff]ailed to allocate memory|smaller than requested"
    r"|STATUS_\w*ALLOC(ATION)?_FAILED"
)
_CAPTURING = re.compile(r"CUDA failure 9\d\d|stream is capturing|StreamCapture")
"""cudaErrorStreamCapture…, which whoever allocates memory gets while another thread captures."""
_NOISE = re.compile(r".*Status Message: |Error in execution: | ; GPU=-?\d+ ; .*", re.DOTALL)
"""Before the reason of a run with bound memory; after that of a call to CUDA."""


class Options(EngineOptions):
    """``options`` of an instance: ``provider``, and what ONNX Runtime's providers call theirs."""

    engine = "onnxruntime"

    provider: Literal["cuda", "tensorrt"] = "cuda"
    enable_cuda_graph: bool = True
    """Of ``cuda``: record a batch size once and replay it; without, where that is impossible."""
    use_tf32: bool = True
    """Let float32 be multiplied with 10 bits of mantissa."""
    prefer_nhwc: bool = False
    gpu_mem_limit: int | None = Field(default=None, ge=1)
    """Of the arena, in bytes; weights and results are in it."""
    trt_fp16_enable: bool = False
    """Of ``tensorrt``: let it choose float16 for what is in float32."""


class Opened(NamedTuple):
    session: Any
    """An ``onnxruntime.InferenceSession``."""
    graphs: bool
    """Whether it records and replays what it runs."""


def open_session(
    *, weights: Path, spec: ModelSpec, instance: Instance, gpu: Gpu, stream: Stream, graphs: bool
) -> Opened:
    """Return a session on the device; one without graphs if it cannot have them.

    Raises
    ------
    ConfigurationError
        (model_invalid) if ONNX Runtime cannot load ``weights``, or was built or installed without
        what the device needs.
    GpuMemoryError
        If the device has too little memory.
    """
    options = Options.of(spec, instance)
    graphs = graphs and _has_graphs(options, gpu)
    providers = _providers(options, weights, gpu, stream, graphs=graphs)
    first = next(iter(providers))
    _require(first, spec)
    try:
        # Of itself it would go on with the CPU where a provider fails.
        session = onnxruntime.InferenceSession(
            weights,
            _session_options(instance),
            providers=list(providers.items()),
            enable_fallback=False,
        )
    except ERRORS as error:
        if graphs and _ABOUT_GRAPHS in str(error):
            return open_session(
                weights=weights, spec=spec, instance=instance, gpu=gpu, stream=stream, graphs=False
            )
        told = as_told(error)
        if isinstance(told, GpuError):
            raise told from error
        raise ConfigurationError(
            Code.MODEL_INVALID, f"ONNX Runtime cannot load model {spec.name!r}: {told}."
        ) from error
    if first not in session.get_providers():
        raise ConfigurationError(
            Code.MODEL_INVALID,
            f"Model {spec.name!r}: ONNX Runtime has {first}, but cannot load the libraries that it "
            "needs, as its log says; run: pip install 'onnxruntime-gpu[cuda,cudnn]'.",
        )
    return Opened(session, graphs)


def as_told(error: Exception) -> NetworkError | GpuError:
    """Return what ONNX Runtime's error means."""
    said = str(error)
    reason = _NOISE.sub("", ort_reason(error))
    if _NO_MEMORY.search(said):
        return GpuMemoryError(reason)
    return GpuError(reason) if _CAPTURING.search(said) else NetworkError(reason)


def _has_graphs(options: Options, gpu: Gpu) -> bool:
    # TensorRT keeps one graph for all batch sizes.
    return gpu.info.kind == "cuda" and options.provider == "cuda" and options.enable_cuda_graph


def _providers(
    options: Options, weights: Path, gpu: Gpu, stream: Stream, *, graphs: bool
) -> dict[str, dict[str, str]]:
    """Return the providers by preference: what one cannot run the next one does."""
    if gpu.info.kind != "cuda":
        return {_PROVIDERS["cpu"]: {}}
    place = {
        "device_id": str(gpu.info.index),
        "has_user_compute_stream": "1",
        "user_compute_stream": str(stream.pointer),
    }
    cuda = {
        **place,
        "use_tf32": str(int(options.use_tf32)),
        "prefer_nhwc": str(int(options.prefer_nhwc)),
        "enable_cuda_graph": str(int(graphs)),
        # Powers of two would take up to twice of what is used, which others can need.
        "arena_extend_strategy": "kSameAsRequested",
    }
    if options.gpu_mem_limit is not None:
        cuda["gpu_mem_limit"] = str(options.gpu_mem_limit)
    found = {_PROVIDERS["cuda"]: cuda, _PROVIDERS["cpu"]: {}}
    if options.provider == "tensorrt":
        return {_PROVIDERS["tensorrt"]: place | _tensorrt(options, weights), **found}
    return found


def _tensorrt(options: Options, weights: Path) -> dict[str, str]:
    caches = caches_of(weights)
    caches.mkdir(exist_ok=True)
    return {
        "trt_fp16_enable": str(int(options.trt_fp16_enable)),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(caches),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(caches),
    }


def _require(provider: str, spec: ModelSpec) -> None:
    found = onnxruntime.get_available_providers()
    if provider not in found:
        raise ConfigurationError(
            Code.MODEL_INVALID,
            f"Model {spec.name!r} wants ONNX Runtime's {provider}, but this build has only "
            f"{', '.join(found)}; run: pip uninstall onnxruntime onnxruntime-gpu && "
            "pip install 'onnxruntime-gpu[cuda,cudnn]'.",
        )
    if provider != _PROVIDERS["cpu"]:
        # Finds the CUDA libraries that came as Python packages.
        onnxruntime.preload_dlls()


def _session_options(instance: Instance) -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = instance.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
