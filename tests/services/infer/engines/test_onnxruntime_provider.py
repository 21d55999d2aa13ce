"""What ONNX Runtime is asked for on a GPU, and what its errors mean.

No GPU is needed: a session that only keeps how it was made stands for a real one.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import onnxruntime
import pytest

from services.infer.engines.onnxruntime_provider import as_told, open_session
from tests.services.infer.engines.samples import spec_of
from visionmesh.errors import ConfigurationError
from visionmesh.gpu import DeviceInfo, Gpu, GpuError, Stream
from visionmesh.gpu.gpu import GpuMemoryError
from visionmesh.models.artifacts import forget_files
from visionmesh.models.spec import Instance


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("CUDA failure 2: out of memory", GpuMemoryError),
        ("Failed to allocate memory for requested buffer of size 4096", GpuMemoryError),
        ("Available memory of 10 is smaller than requested bytes of 20", GpuMemoryError),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED", GpuMemoryError),
        ("CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", GpuMemoryError),
        ("CUDA failure 900: operation not permitted when stream is capturing", GpuError),
    ],
)
def test_errors_of_the_device_are_told_from_those_of_the_network(
    said: str, kind: type[GpuError]
) -> None:
    told = as_told(RuntimeError(f"Error in execution: {said} ; GPU=0 ; hostname=a ; line=7 ; "))
    assert type(told) is kind
    assert str(told) == said


class Cuda:
    """As much of a GPU as ONNX Runtime is told of."""

    info = DeviceInfo(
        kind="cuda", index=1, uuid="GPU-1", name="", memory_bytes=1, capability=(9, 0)
    )


class Session:
    """Keeps what it was made with, and finds only what it is told to."""

    made: ClassVar[list[Any]] = []
    refuses = ""
    found: ClassVar[tuple[str, ...]] = ("CUDAExecutionProvider", "CPUExecutionProvider")

    def __init__(
        self, weights: Path, options: Any, *, providers: list[Any], enable_fallback: bool
    ) -> None:
        assert not enable_fallback
        self.made.append(dict(providers))
        if self.refuses and self.made[-1]["CUDAExecutionProvider"]["enable_cuda_graph"] == "1":
            raise RuntimeError(self.refuses)

    def get_providers(self) -> list[str]:
        return list(self.found)


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> type[Session]:
    class Fresh(Session):
        made: ClassVar[list[Any]] = []

    providers = ["TensorrtExecutionProvider", *Session.found]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Fresh)
    return Fresh


def asked(weights: Path, **options: Any) -> bool:
    """Return whether the session that is opened with ``options`` has graphs."""
    return open_session(
        weights=weights,
        spec=spec_of(),
        instance=Instance(device="cuda:1", options=options),
        gpu=cast(Gpu, Cuda()),
        stream=cast(Stream, SimpleNamespace(pointer=4096)),
        graphs=True,
    ).graphs


PLACE = {"device_id": "1", "has_user_compute_stream": "1", "user_compute_stream": "4096"}


def test_cuda_is_asked_for_on_our_stream_with_graphs(
    tmp_path: Path, session: type[Session]
) -> None:
    assert asked(tmp_path / "m.onnx", gpu_mem_limit=1 << 30, use_tf32=False)
    (made,) = session.made
    assert list(made) == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert made["CUDAExecutionProvider"] == PLACE | {
        "use_tf32": "0",
        "prefer_nhwc": "0",
        "enable_cuda_graph": "1",
        "arena_extend_strategy": "kSameAsRequested",
        "gpu_mem_limit": str(1 << 30),
    }


def test_a_network_that_cannot_be_recorded_as_a_whole_is_opened_again(
    tmp_path: Path, session: type[Session]
) -> None:
    session.refuses = "This session cannot use the graph capture feature as requested by the user"
    assert not asked(tmp_path / "m.onnx")
    graphs = [made["CUDAExecutionProvider"]["enable_cuda_graph"] for made in session.made]
    assert graphs == ["1", "0"]


def test_tensorrt_keeps_what_it_builds_beside_the_weights_until_they_are_forgotten(
    tmp_path: Path, session: type[Session]
) -> None:
    session.found = ("TensorrtExecutionProvider", *Session.found)
    for name in ("m.onnx", "n.onnx"):
        assert not asked(tmp_path / name, provider="tensorrt", trt_fp16_enable=True)
    made, _ = session.made
    caches, others = tmp_path / "m.caches", tmp_path / "n.caches"
    assert next(iter(made)) == "TensorrtExecutionProvider"
    assert made["TensorrtExecutionProvider"] == PLACE | {
        "trt_fp16_enable": "1",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(caches),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(caches),
    }
    (caches / "a.engine").touch()
    forget_files(tmp_path, ["m"])
    assert not caches.exists()
    assert others.is_dir()


def test_libraries_that_are_missing_are_told_and_not_replaced_by_the_cpu(
    tmp_path: Path, session: type[Session]
) -> None:
    session.found = ("CPUExecutionProvider",)
    with pytest.raises(ConfigurationError, match="cannot load the libraries"):
        asked(tmp_path / "m.onnx")


def test_a_build_without_cuda_is_told(
    tmp_path: Path, session: type[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ConfigurationError, match=r"has only CPU.*pip install 'onnxruntime-gpu"):
        asked(tmp_path / "m.onnx")
