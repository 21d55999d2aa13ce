"""Images go to the nodes that a model's routing names; two nodes share one mesh."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest

from tests.mesh.conftest import picture, write_classifier
from tests.mesh.measured import computed
from tests.polling import until
from visionmesh.client import Mesh
from visionmesh.local import LocalMesh
from visionmesh.models.folder import load_folder
from visionmesh.models.registry import Registry
from visionmesh.settings import IngestSettings, PreprocessSettings


@pytest.fixture(scope="module")
async def second(
    local_mesh: LocalMesh, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[LocalMesh]:
    """Infer and postprocess on another node of the same mesh."""
    settings = local_mesh.settings.model_copy(
        update={
            "node": "second",
            "ingest": IngestSettings(replicas=0, port=0, grpc_port=0),
            "preprocess": PreprocessSettings(replicas=0),
        }
    )
    async with LocalMesh(
        state=tmp_path_factory.mktemp("second"),
        settings=settings,
        nats_url=local_mesh.nats_url,
        redis_url=local_mesh.redis_url,
    ) as running:
        yield running


@pytest.mark.parametrize(
    ("routing", "shares"),
    [
        ({"policy": "round_robin"}, {10}),
        ({"policy": "weighted", "weights": {"second": 3}}, {5, 15}),
        ({"policy": "affinity"}, {0, 20}),
        ({"policy": "least_loaded"}, {0, 20}),
    ],
)
@pytest.mark.usefixtures("second")
async def test_images_are_shared_out_as_the_model_says(
    mesh: Mesh,
    local_mesh: LocalMesh,
    tmp_path: Path,
    routing: dict[str, object],
    shares: set[int],
) -> None:
    # A name of its own: a worker that still has the last case's model would seem to be ready.
    name = f"routed_{routing['policy']}"
    client = await nats.connect(local_mesh.nats_url)
    registry = Registry(client)
    folder = write_classifier(tmp_path, name=name, routing=routing)
    try:
        await registry.push(load_folder(folder))

        async def served() -> bool:
            nodes = await mesh.nodes()
            serving = [node for node in nodes if node.stage == "infer" and name in node.models]
            decoding = [
                node
                for node in nodes
                if node.stage == "postprocess" and name in (node.applied or ())
            ]
            doors = [node for node in nodes if name in node.heard]
            return len(serving) == len(decoding) == 2 and bool(doors)

        await until(served)
        before = await computed(mesh, name)
        results = await asyncio.gather(*(mesh.infer(name, picture()) for _ in range(20)))
        assert {result.status for result in results} == {"ok"}
        after = await computed(mesh, name)
        counts = {after[node] - before[node] for node in after}
        assert counts == shares
    finally:
        await registry.remove(name)
        await client.close()
