"""The worker on a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.preprocess.gpu.fit import Fitter
from services.preprocess.service import Preprocess
from visionmesh.context import open_context
from visionmesh.errors import Code, ConfigurationError
from visionmesh.gpu.gpu import GpuMemoryError
from visionmesh.settings import MEBIBYTE, PreprocessSettings, Settings
from visionmesh.subjects import IMAGES


async def test_a_worker_whose_gpu_is_not_here_does_not_start(nats_url: str, tmp_path: Path) -> None:
    settings = Settings(
        nats_url=nats_url,
        state_dir=tmp_path,
        preprocess=PreprocessSettings(arena_bytes=MEBIBYTE, device="cuda:77"),
    )
    async with open_context(settings, stage="preprocess", stream=IMAGES) as context:
        with pytest.raises(ConfigurationError) as caught:
            Preprocess(context)
    assert caught.value.code is Code.DEVICE_MISSING


async def test_a_worker_whose_gpu_has_too_little_memory_does_not_start(
    nats_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Fitter) -> None:
        raise GpuMemoryError("there is none left")

    monkeypatch.setattr(Fitter, "compile", refuse)
    settings = Settings(
        nats_url=nats_url,
        state_dir=tmp_path,
        preprocess=PreprocessSettings(arena_bytes=MEBIBYTE, device="emulated"),
    )
    async with open_context(settings, stage="preprocess", stream=IMAGES) as context:
        with pytest.raises(ConfigurationError, match=r"emulated cannot be used .*none left"):
            Preprocess(context)
