"""Work for callers that have gone is left undone."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

from tests.mesh.conftest import picture
from tests.mesh.gateways import open_gateway
from tests.mesh.slow import held, push_slow
from tests.polling import until
from visionmesh.client import Mesh
from visionmesh.errors import Refused
from visionmesh.events import Event
from visionmesh.local import LocalMesh

COUNT = 40


async def test_images_of_callers_that_have_gone_leave_the_queues(
    local_mesh: LocalMesh, mesh: Mesh, tmp_path: Path
) -> None:
    await push_slow(local_mesh, tmp_path)
    async with open_gateway(local_mesh.settings) as gateway:

        async def known() -> bool:
            try:
                await gateway.require("slow")
            except Refused:
                return False
            return True

        await until(known)
        asking = [asyncio.create_task(gateway.infer(event())) for _ in range(COUNT)]
        await until(lambda: held(mesh, least=COUNT * 3 // 4))
        loop = asyncio.get_running_loop()
        began = loop.time()
        for one in asking:
            one.cancel()
        ended = await asyncio.gather(*asking, return_exceptions=True)
        gone = sum(isinstance(one, asyncio.CancelledError) for one in ended)
        assert gone > COUNT / 2
        waited = asyncio.create_task(gateway.infer(event()))
        alone = (await waited).result()
        took = loop.time() - began
        # The queue would have been worked off first, one image after the other.
        assert took < gone * alone.timings["infer"] / 1e3 / 2, (took, alone.timings)


def event() -> Event:
    return Event(id=uuid.uuid4().hex, source="test", model="slow", image=picture())
