"""Processes die that share a device's memory; no event is lost, and no answer is another's."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import pytest

from tests.mesh.conftest import CLASSIFIER, open_on_device, picture
from tests.mesh.measured import measured
from tests.polling import until
from visionmesh.client import Mesh
from visionmesh.contracts import Answer, Status
from visionmesh.local import LocalMesh

EVENTS = 120
KINDS = 24
"""Of pictures, each of which has another answer."""
STAGES = ("preprocess", "infer", "postprocess")
KILLS = 2


@pytest.fixture(scope="module")
async def own_mesh(
    gpu_device: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[LocalMesh]:
    """A mesh whose parts may be killed."""
    async with open_on_device(tmp_path_factory.mktemp("killed")) as running:
        yield running


async def all_answers(mesh: Mesh, source: str, since: datetime) -> dict[str, Answer]:
    """Return what each event was answered, once all were."""
    seen: dict[str, Answer] = {}
    async for result in mesh.results(CLASSIFIER, source=source, since=since):
        assert result.status is Status.OK, result
        assert result.id not in seen
        seen[result.id] = Answer(**result.recognised())
        if len(seen) == EVENTS:
            break
    return seen


async def share(mesh: Mesh) -> None:
    """Return when both stages that write to the device have done so."""

    async def sharing() -> bool:
        capacity = "visionmesh_device_arena_capacity_bytes"
        try:
            found = [await measured(mesh, stage, capacity) for stage in ("preprocess", "infer")]
        except httpx.TransportError:
            return False  # what a killed worker told of itself is still known
        return all(one.total() > 0 for one in found)

    await until(sharing)


async def kill(own_mesh: LocalMesh, stage: str, killed: set[int]) -> None:
    """Kill the worker of a stage, once there is one that was not ``killed`` before."""

    async def found() -> int | None:
        return next((pid for pid in own_mesh.pids[stage] if pid not in killed), None)

    pid = await until(found)
    killed.add(pid)
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("stage", STAGES)
async def test_a_killed_stage_costs_no_result_and_makes_none_wrong(
    own_mesh: LocalMesh, stage: str
) -> None:
    pictures, killed = [picture() for _ in range(KINDS)], set[int]()
    async with Mesh(own_mesh.nats_url) as mesh:
        expected = [Answer(**(await mesh.infer(CLASSIFIER, one)).recognised()) for one in pictures]
        assert len({str(one) for one in expected}) == KINDS
        await share(mesh)
        counting = asyncio.create_task(all_answers(mesh, stage, datetime.now(UTC)))
        for number in range(EVENTS):
            if number % (EVENTS // (KILLS + 1)) == EVENTS // (KILLS + 2):
                await kill(own_mesh, stage, killed)
            await mesh.publish(CLASSIFIER, pictures[number % KINDS], source=stage, id=str(number))
        async with asyncio.timeout(60):
            seen = await counting
        await share(mesh)
    assert seen == {str(number): expected[number % KINDS] for number in range(EVENTS)}
    assert own_mesh.restarts[stage] >= KILLS
