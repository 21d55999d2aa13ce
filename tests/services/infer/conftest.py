"""A pool of real engines, and models for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import nats
import numpy as np
import pytest
from numpy.typing import NDArray

from services.infer.loading import Loaded, Loader
from services.infer.pool import ModelPool
from services.infer.room import UNBOUNDED, Room
from tests.networks import expected, save_folder
from visionmesh.models.folder import load_folder
from visionmesh.models.record import ModelRecord
from visionmesh.models.registry import Registry

LINGER = timedelta(milliseconds=100)


@pytest.fixture
async def registry(nats_url: str) -> AsyncIterator[Registry]:
    nc = await nats.connect(nats_url)
    registry = Registry(nc)
    yield registry
    if any(record.spec.name == "trees" for record in await registry.list()):
        await registry.remove("trees")
    await nc.close()


@pytest.fixture
async def pool(registry: Registry, tmp_path: Path) -> AsyncIterator[ModelPool]:
    pool = ModelPool(loader=Loader(registry=registry, directory=tmp_path / "cache"), linger=LINGER)
    yield pool
    await pool.close()


async def pushed(registry: Registry, folder: Path, **more: Any) -> ModelRecord:
    return await registry.push(load_folder(save_folder(folder, **more)), replace=True)


async def load(
    loader: Loader, record: ModelRecord, told: Callable[[str], None] = lambda _: None
) -> Loaded:
    """Return version 1, loaded where nothing else is."""
    room = Room(
        loader=loader,
        evict=lambda *_: pytest.fail("nothing is there that could give way"),
        bounds=UNBOUNDED,
    )
    return await room.load(record, 1, told=told)


def image_of(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (8, 6, 3), np.uint8)


async def scores(pool: ModelPool, version: int, seed: int = 0) -> NDArray[Any]:
    output = await pool.infer("trees", version, image_of(seed))
    answer: NDArray[Any] = output.outputs["scores"]
    return answer


def right(version: int, seed: int = 0) -> NDArray[Any]:
    """Return what version ``version`` says of an image; its weights have the version as seed."""
    (answer,) = expected(image_of(seed).transpose(2, 0, 1)[None].astype(np.float32), version)
    return np.asarray(answer)


def versions(pool: ModelPool) -> list[int]:
    return [model.version for model in pool.loaded]


async def until_versions(pool: ModelPool, wanted: list[int]) -> None:
    deadline = time.monotonic() + 10
    while versions(pool) != wanted:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def broken(record: ModelRecord, version: int) -> ModelRecord:
    """Return the record with a file for ``version`` that the mesh does not have."""
    lost = record.versions[version].model_copy(update={"sha256": "0" * 64})
    return record.model_copy(update={"versions": {**record.versions, version: lost}})
