"""The worker on a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.preprocess.service import Preprocess
from visionmesh.context import open_context
from visionmesh.errors import Code, ConfigurationError
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
