"""Frames of one camera that look alike are computed once, where the model asks for that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import pytest

from tests.mesh.conftest import serving, write_classifier
from tests.mesh.measured import computed, measured
from tests.polling import until
from tests.services.ingest.test_near import photo
from visionmesh.client import Mesh
from visionmesh.contracts import Result, Status
from visionmesh.local import LocalMesh

_scenes = count(1)


@pytest.fixture
async def model(
    local_mesh: LocalMesh, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[str]:
    """The name of a model that takes frames for the same that differ in so many bits."""
    name = f"near-{request.param}"
    cache = {"near_duplicates": request.param}
    async with serving(local_mesh, [write_classifier(tmp_path, name=name, cache=cache)]):
        yield name


@pytest.fixture
def scene() -> int:
    """What no other test shows: answers are shared by all models with the same weights."""
    return next(_scenes)


async def first_frame(mesh: Mesh, model: str, scene: int) -> Result:
    """Send the first frame of a camera; return its result once the cache has it."""
    frame = photo(quality=95, seed=scene)
    first = await mesh.infer(model, frame, source="cam-1")

    async def cached() -> bool:
        again = await mesh.infer(model, frame, source="cam-1")
        return again.cache is not None and again.cache.level == "result"

    await until(cached)
    return first


@pytest.mark.parametrize("model", [4], indirect=True)
async def test_two_nearly_equal_frames_of_one_source_are_one_inference(
    mesh: Mesh, model: str, scene: int
) -> None:
    first = await first_frame(mesh, model, scene)
    ran = (await computed(mesh, model)).total()
    hits = await measured(mesh, "ingest", 'visionmesh_cache_total{outcome="near_hit"')
    second = await mesh.infer(model, photo(quality=60, seed=scene), source="cam-1")
    assert (first.status, second.status) == (Status.OK, Status.OK)
    assert second.cache is not None
    assert second.cache.level == "near"
    assert second.classes == first.classes
    assert second.image is not None
    assert first.image is not None
    assert second.image.sha256 != first.image.sha256
    assert (await computed(mesh, model)).total() == ran
    now = await measured(mesh, "ingest", 'visionmesh_cache_total{outcome="near_hit"')
    assert (now - hits).total() == 1


@pytest.mark.parametrize(
    ("model", "source", "other"),
    [(4, "cam-2", 0), (4, "cam-1", 1000), (0, "cam-1", 0)],
    ids=["another source", "another picture", "not asked for"],
    indirect=["model"],
)
async def test_what_is_not_near_is_computed(
    mesh: Mesh, model: str, scene: int, source: str, other: int
) -> None:
    await first_frame(mesh, model, scene)
    ran = (await computed(mesh, model)).total()
    second = await mesh.infer(model, photo(quality=60, seed=scene + other), source=source)
    assert second.status is Status.OK
    assert second.cache is None or not second.cache.hit
    assert (await computed(mesh, model)).total() == ran + 1
