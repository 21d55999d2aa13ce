"""What PyTorch's errors on a device mean for the batch, for the network, and for its memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the engine for exported programs wants PyTorch")

from services.infer.engines import NoMemory, open_engines  # noqa: E402 - they import it
from services.infer.engines import torch as torch_engines  # noqa: E402
from services.infer.engines.host import NetworkError  # noqa: E402
from services.infer.engines.torch.network import DeviceNetwork  # noqa: E402
from tests import vits  # noqa: E402
from tests.services.infer.engines.samples import spec_of  # noqa: E402
from visionmesh.gpu import Gpu, GpuError  # noqa: E402
from visionmesh.gpu.gpu import GpuMemoryError  # noqa: E402
from visionmesh.models.spec import Instance  # noqa: E402

LIBRARY_FULL = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("Tried to allocate 2 GiB"), GpuMemoryError),
        (torch.AcceleratorError("CUDA error: out of memory"), GpuMemoryError),
        (RuntimeError(LIBRARY_FULL), GpuMemoryError),
        (torch.AcceleratorError("CUDA error: invalid argument"), GpuError),
        (RuntimeError("shapes do not fit"), NetworkError),
    ],
)
def test_errors_of_the_device_are_told_from_those_of_the_network(
    gpu: Gpu, error: Exception, kind: type[Exception]
) -> None:
    def fail(_: object) -> None:
        raise error

    network = DeviceNetwork(fail, gpu=gpu, sizes=(1,), close=lambda: None)  # type: ignore[arg-type]
    stream = gpu.stream()
    with pytest.raises(kind, match=str(error)[:20]) as raised:
        network(gpu.xp.zeros((1, 3, 2, 2), "float32"), stream)
    assert raised.type is kind


def test_what_was_moved_of_a_network_that_is_too_large_is_given_back(
    vit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[Any] = []

    def overflow(network: Any, device: object) -> None:
        moved.append(network)
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(torch_engines, "move", overflow)
    instance = Instance(device="emulated", engines=("torch",))
    with pytest.raises(NoMemory, match="full"):
        open_engines(vit, spec_of(width=vits.SIZE, height=vits.SIZE), instance, count=1)
    (network,) = moved
    assert all(weight.is_meta for weight in network.parameters())
