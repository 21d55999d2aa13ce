"""The worker on a GPU, and where there is none that it can use."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.preprocess.gpu.fit import Fitter
from services.preprocess.service import Preprocess
from visionmesh.context import Context, open_context
from visionmesh.errors import Fatal
from visionmesh.gpu.gpu import GpuError, GpuLostError, GpuMemoryError
from visionmesh.nodes import NodeRecord, list_nodes
from visionmesh.settings import MEBIBYTE, PreprocessSettings, Settings
from visionmesh.subjects import IMAGES


def settings(nats_url: str, folder: Path, device: str) -> Settings:
    preprocess = PreprocessSettings(arena_bytes=MEBIBYTE, device=device, threads=1)
    return Settings(nats_url=nats_url, state_dir=folder, preprocess=preprocess)


async def started(context: Context) -> NodeRecord:
    """Start a worker, and stop it when it has told what it is."""
    worker = Preprocess(context)
    await context.nodes.start(load=lambda: worker.in_hand)
    await worker.start()
    try:
        (record,) = await list_nodes(context.connection.client)
    finally:
        await worker.stop()
    return record


def refuse(monkeypatch: pytest.MonkeyPatch, error: GpuError) -> None:
    def fail(self: Fitter) -> None:
        raise error

    monkeypatch.setattr(Fitter, "compile", fail)


async def test_a_worker_tells_that_it_prepares_on_its_gpu(
    nats_url: str, tmp_path: Path, gpu_device: str
) -> None:
    own = settings(nats_url, tmp_path, gpu_device)
    async with open_context(own, stage="preprocess", stream=IMAGES) as context:
        record = await started(context)
    assert record.device == gpu_device


async def test_a_worker_whose_gpu_is_not_here_goes_on_with_the_cpu(
    nats_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = settings(nats_url, tmp_path, "cuda:77")
    async with open_context(own, stage="preprocess", stream=IMAGES) as context:
        record = await started(context)
    assert record.device == "cpu"
    assert "preprocess runs on the CPU, as cuda:77 cannot be used: " in caplog.text


async def test_a_worker_whose_gpu_has_too_little_memory_goes_on_with_the_cpu(
    nats_url: str,
    tmp_path: Path,
    gpu_device: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    refuse(monkeypatch, GpuMemoryError("there is none left"))
    own = settings(nats_url, tmp_path, gpu_device)
    async with open_context(own, stage="preprocess", stream=IMAGES) as context:
        record = await started(context)
    assert record.device == "cpu"
    assert f"images are prepared on the CPU, not on {gpu_device}: there is none left" in caplog.text


async def test_a_worker_whose_gpu_is_lost_ends(
    nats_url: str, tmp_path: Path, gpu_device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next process may have it again."""
    refuse(monkeypatch, GpuLostError("an illegal address"))
    own = settings(nats_url, tmp_path, gpu_device)
    async with open_context(own, stage="preprocess", stream=IMAGES) as context:
        with pytest.raises(Fatal, match="illegal address"):
            await started(context)
