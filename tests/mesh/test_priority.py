"""What is urgent overtakes what waits for the engines."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.mesh.conftest import picture
from tests.mesh.slow import held, push_slow
from tests.polling import until
from visionmesh.client import Mesh
from visionmesh.contracts import Priority, Status
from visionmesh.local import LocalMesh

USUAL, URGENT = 40, 3


async def test_urgent_images_overtake_those_that_wait_for_the_engine(
    local_mesh: LocalMesh, mesh: Mesh, tmp_path: Path
) -> None:
    await push_slow(local_mesh, tmp_path)
    answered: list[Priority] = []

    async def ask(priority: Priority) -> None:
        result = await mesh.infer("slow", picture(), priority=priority)
        assert result.status is Status.OK
        answered.append(priority)

    async with asyncio.timeout(60), asyncio.TaskGroup() as asking:
        for _ in range(USUAL):
            asking.create_task(ask(Priority.NORMAL))
        await until(lambda: held(mesh, least=USUAL * 3 // 4))
        before = len(answered)
        for _ in range(URGENT):
            asking.create_task(ask(Priority.HIGH))

    last = max(place for place, one in enumerate(answered) if one is Priority.HIGH)
    behind = len(answered) - 1 - last
    assert behind > (USUAL - before) / 2, answered
