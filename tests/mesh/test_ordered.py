"""Results of each source in the order of its events, though a worker dies in the middle."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import aclosing
from pathlib import Path

from tests.mesh.conftest import CLASSIFIER, SETTINGS, picture, write_classifier
from visionmesh.client import Mesh
from visionmesh.contracts import Result
from visionmesh.local import LocalMesh

SOURCES = ("left", "middle", "right")
EVENTS = 100


async def read(mesh: Mesh, *, ordered: bool) -> dict[str, list[str]]:
    """Return the ids of all results by source, as they come."""
    found: dict[str, list[str]] = {source: [] for source in SOURCES}
    results = mesh.results(CLASSIFIER, after=0, ordered=ordered)
    async with aclosing(results), asyncio.timeout(60):
        for _ in range(len(SOURCES) * EVENTS):
            result: Result = await anext(results)
            found[result.source].append(result.id)
    return found


async def test_each_source_is_in_order_and_none_is_missing(tmp_path: Path) -> None:
    model = write_classifier(tmp_path / "models", cache={"enabled": False})
    ids = [f"{number:03}" for number in range(EVENTS)]
    async with (
        LocalMesh(state=tmp_path / "state", settings=SETTINGS, models=[model]) as running,
        Mesh(running.nats_url) as mesh,
    ):
        live = asyncio.create_task(read(mesh, ordered=True))
        images = [picture() for _ in range(10)]
        for number, id in enumerate(ids):
            for source in SOURCES:
                await mesh.publish(CLASSIFIER, images[number % 10], source=source, id=id)
            if number == EVENTS // 3:
                # What it had in hand is computed again, after what came later.
                os.kill(running.pids["preprocess"][0], signal.SIGKILL)
        expected = dict.fromkeys(SOURCES, ids)
        assert await live == expected
        assert await read(mesh, ordered=True) == expected
        as_stored = await read(mesh, ordered=False)
    assert {source: sorted(found) for source, found in as_stored.items()} == expected
    assert as_stored != expected, "they came in order by themselves"
