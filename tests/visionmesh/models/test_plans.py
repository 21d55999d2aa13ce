"""Plans are stored once for all nodes, and forgotten with the network that they were built of."""

from __future__ import annotations

import asyncio
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client

from tests.networks import save_folder
from tests.visionmesh.models.conftest import stored
from visionmesh.models.artifacts import ArtifactStore, file_sha256
from visionmesh.models.folder import load_folder
from visionmesh.models.plans import Plans
from visionmesh.models.registry import Registry
from visionmesh.subjects import PLANS_BUCKET

NOWHERE = 64 * "0"


def plan(folder: Path, content: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "a.plan"
    file.write_text(content)
    return file


async def test_what_was_stored_first_is_what_everybody_finds(nc: Client, tmp_path: Path) -> None:
    one, other = (Plans(nc, artifacts=ArtifactStore(nc)) for _ in range(2))
    key = f"{NOWHERE}.v1"
    assert await one.fetch(key, tmp_path / "cache") is None

    stored_by = await asyncio.gather(
        one.store(key, plan(tmp_path / "one", "built by one")),
        other.store(key, plan(tmp_path / "other", "built by other")),
    )

    assert sorted(stored_by) == [False, True]
    first = "built by one" if stored_by[0] else "built by other"
    for plans, cache in ((one, "c1"), (other, "c2")):
        found = await plans.fetch(key, tmp_path / cache)
        assert found is not None
        assert found.read_text() == first
    assert not await one.store(key, plan(tmp_path / "one", "built again"))
    assert (await stored(nc))[0] == 1, "what came too late is nowhere"


async def test_the_same_bytes_from_two_nodes_are_kept(nc: Client, tmp_path: Path) -> None:
    one, other = (Plans(nc, artifacts=ArtifactStore(nc)) for _ in range(2))
    file = plan(tmp_path, "the same")
    await asyncio.gather(one.store(f"{NOWHERE}.v3", file), other.store(f"{NOWHERE}.v3", file))
    assert await one.fetch(f"{NOWHERE}.v3", tmp_path / "cache")


async def test_a_plan_goes_with_the_last_version_that_has_its_network(
    registry: Registry, nc: Client, tmp_path: Path
) -> None:
    oaks = await registry.push(load_folder(save_folder(tmp_path / "oaks", versions=(1, 2))))
    pines = await registry.push(load_folder(save_folder(tmp_path / "pines", versions=(1,))))
    for number, file in ((1, "of one"), (2, "of two")):
        key = f"{oaks.versions[number].sha256}.h100"
        assert await registry.plans.store(key, plan(tmp_path / "built", file))
    assert oaks.versions[1].sha256 == pines.versions[1].sha256
    assert (await stored(nc))[0] == 4

    await registry.remove("oaks")

    assert (await stored(nc))[0] == 2
    assert await registry.plans.fetch(f"{oaks.versions[1].sha256}.h100", tmp_path / "c")
    assert not await registry.plans.fetch(f"{oaks.versions[2].sha256}.h100", tmp_path / "c")
    await registry.remove("pines")
    assert (await stored(nc))[0] == 0


async def test_a_plan_whose_file_is_gone_is_built_again(nc: Client, tmp_path: Path) -> None:
    plans, artifacts = Plans(nc, artifacts=ArtifactStore(nc)), ArtifactStore(nc)
    file = plan(tmp_path, "a plan")
    assert await plans.store(f"{NOWHERE}.v2", file)

    await artifacts.delete(file_sha256(file))

    assert await plans.fetch(f"{NOWHERE}.v2", tmp_path / "cache") is None
    assert await plans.store(f"{NOWHERE}.v2", plan(tmp_path, "built again"))
    found = await plans.fetch(f"{NOWHERE}.v2", tmp_path / "cache")
    assert found is not None
    assert found.read_text() == "built again"


async def test_where_nothing_was_built_there_is_no_bucket(
    registry: Registry, nc: Client, tmp_path: Path
) -> None:
    await registry.push(load_folder(save_folder(tmp_path / "oaks")))
    await registry.remove("oaks")
    with pytest.raises(nats.js.errors.NotFoundError):
        await nc.jetstream().key_value(PLANS_BUCKET)
