"""While preprocess unpacks a large image, it goes on with all else."""

from __future__ import annotations

import asyncio
import time
from io import BytesIO

import httpx
from PIL import Image

from tests.mesh.conftest import CLASSIFIER
from visionmesh.client import Mesh
from visionmesh.contracts import Status


async def test_the_event_loop_never_waits_for_pixels(mesh: Mesh) -> None:
    file = BytesIO()
    Image.linear_gradient("L").resize((6000, 4500)).convert("RGB").save(file, "PNG")
    [preprocess] = [node for node in await mesh.nodes() if node.stage == "preprocess"]
    waits: list[float] = []
    async with httpx.AsyncClient(base_url=preprocess.http or "") as http:
        work = asyncio.create_task(mesh.infer(CLASSIFIER, file.getvalue()))
        while not work.done():
            began = time.perf_counter()
            assert (await http.get("/healthz")).status_code == 200
            waits.append(time.perf_counter() - began)
            await asyncio.sleep(0.002)
        result = await work
    assert result.status is Status.OK
    # Had it waited, one answer would have taken as long as the pixels.
    assert max(waits) * 1000 < result.timings["preprocess"] / 2
