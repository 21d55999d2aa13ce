"""While preprocess unpacks a large image, it goes on with all else."""

from __future__ import annotations

import asyncio
import time
from io import BytesIO

import httpx
from PIL import Image

from tests.mesh.conftest import CLASSIFIER
from tests.polling import until
from visionmesh.client import Mesh
from visionmesh.contracts import Status
from visionmesh.local import LocalMesh
from visionmesh.telemetry.kept import read_trace
from visionmesh.telemetry.spans import Span, SpanName


async def test_the_event_loop_never_waits_for_pixels(local_mesh: LocalMesh, mesh: Mesh) -> None:
    file = BytesIO()
    Image.linear_gradient("L").resize((6000, 4500)).convert("RGB").save(file, "PNG")
    [preprocess] = [node for node in await mesh.nodes() if node.stage == "preprocess"]
    answered: list[tuple[int, int]] = []
    async with httpx.AsyncClient(base_url=preprocess.http or "") as http:
        work = asyncio.create_task(mesh.infer(CLASSIFIER, file.getvalue()))
        while not work.done():
            asked_ns = time.time_ns()
            assert (await http.get("/healthz")).status_code == 200
            answered.append((asked_ns, time.time_ns()))
            await asyncio.sleep(0.002)
        result = await work
    assert result.status is Status.OK

    async def unpacked() -> Span | None:
        kept = read_trace(local_mesh.settings.state_dir, result.trace_id or "")
        return next((k.span for k in kept if k.span.name == SpanName.DECODE_IMAGE), None)

    span = await until(unpacked)
    # Had it waited, who asked after the beginning would have been answered after the end.
    assert any(span.start_ns < asked and told < span.end_ns for asked, told in answered)
