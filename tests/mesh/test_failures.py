"""Processes and servers die; no event is lost and none is answered twice."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.mesh.conftest import CLASSIFIER, SETTINGS, picture, write_classifier
from visionmesh.client import Mesh
from visionmesh.contracts import Result, Status
from visionmesh.local import SERVICES, LocalMesh

EVENTS = 300


@pytest.fixture
async def own_mesh(tmp_path: Path) -> AsyncIterator[LocalMesh]:
    """A mesh whose parts may be killed."""
    model = write_classifier(tmp_path / "models")
    async with LocalMesh(state=tmp_path / "state", settings=SETTINGS, models=[model]) as running:
        yield running


async def all_results(
    mesh: Mesh, source: str, wanted: set[str], *, since: datetime
) -> Counter[str]:
    """Return how often each event was answered once all were."""
    seen: Counter[str] = Counter()
    async for result in mesh.results(CLASSIFIER, source=source, since=since):
        assert result.status is Status.OK, result
        seen[result.id] += 1
        if wanted <= set(seen):
            return seen
    raise AssertionError("results() ended")


async def flow(mesh: Mesh, source: str, disturb: list[asyncio.Event]) -> Counter[str]:
    """Publish events, tell when a part of them is published, and count the results."""
    ids = {f"{source}-{number}" for number in range(EVENTS)}
    counting = asyncio.create_task(all_results(mesh, source, ids, since=datetime.now(UTC)))
    for number in range(EVENTS):
        await mesh.publish(CLASSIFIER, picture(), source=source, id=f"{source}-{number}")
        step = (number + 1) * (len(disturb) + 1) // EVENTS
        for event in disturb[:step]:
            event.set()
    async with asyncio.timeout(60):
        return await counting


@pytest.mark.parametrize("service", SERVICES)
async def test_a_killed_service_costs_no_result(own_mesh: LocalMesh, service: str) -> None:
    async def kill(when: asyncio.Event) -> None:
        await when.wait()
        os.kill(own_mesh.pids[service][0], signal.SIGKILL)

    moments = [asyncio.Event(), asyncio.Event()]
    async with Mesh(own_mesh.nats_url) as mesh:
        killing = [asyncio.create_task(kill(moment)) for moment in moments[:1]]
        seen = await flow(mesh, service, moments)
        await asyncio.gather(*killing)
    assert len(seen) == EVENTS
    assert set(seen.values()) == {1}
    assert own_mesh.restarts[service] >= 1


@pytest.mark.parametrize("server", ["nats", "valkey"])
async def test_a_killed_server_costs_no_result(own_mesh: LocalMesh, server: str) -> None:
    async def kill(when: asyncio.Event) -> None:
        await when.wait()
        os.kill(own_mesh.pids[server][0], signal.SIGKILL)

    moment = asyncio.Event()
    async with Mesh(own_mesh.nats_url) as mesh:
        killing = asyncio.create_task(kill(moment))
        seen = await flow(mesh, server, [moment])
        await killing
    assert len(seen) == EVENTS
    assert set(seen.values()) == {1}


async def test_a_stopped_cache_slows_nothing_down_for_long(own_mesh: LocalMesh) -> None:
    os.kill(own_mesh.pids["valkey"][0], signal.SIGSTOP)
    try:
        async with Mesh(own_mesh.nats_url) as mesh:
            results: list[Result] = []
            async with asyncio.timeout(10):
                for _ in range(50):
                    results.append(await mesh.infer(CLASSIFIER, picture()))
        assert {one.status for one in results} == {Status.OK}
    finally:
        os.kill(own_mesh.pids["valkey"][0], signal.SIGCONT)
