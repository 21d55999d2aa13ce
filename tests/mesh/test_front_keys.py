"""A mesh that wants keys: `visionmesh keys`, two ingest workers with one rate, and no Valkey."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc.aio as triton

from tests.mesh.conftest import CLASSIFIER, SETTINGS, picture, write_classifier
from tests.polling import until
from tests.visionmesh.cli.conftest import Finished, finish
from visionmesh.bus import Connection
from visionmesh.keys import Right
from visionmesh.local import LocalMesh
from visionmesh.nodes import list_nodes

INFER = f"/v1/models/{CLASSIFIER}/infer"


@pytest.fixture(scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalMesh]:
    root = tmp_path_factory.mktemp("keys")
    model = write_classifier(root / "models")
    ingest = SETTINGS.ingest.model_copy(update={"keys": "required", "replicas": 2})
    settings = SETTINGS.model_copy(update={"ingest": ingest})
    async with LocalMesh(state=root / "state", settings=settings, models=[model]) as running:
        yield running


@pytest.fixture(scope="module")
async def workers(mesh: LocalMesh) -> AsyncIterator[list[httpx.AsyncClient]]:
    """A client of each ingest worker."""
    connection = await Connection.open(mesh.nats_url, name="test")
    nodes = await list_nodes(connection.client)
    await connection.close()
    clients = [
        httpx.AsyncClient(base_url=node.http, timeout=30)
        for node in nodes
        if node.stage == "ingest" and node.http
    ]
    assert len(clients) == 2
    yield clients
    await asyncio.gather(*(client.aclose() for client in clients))


@pytest.fixture(scope="module")
async def board_key(mesh: LocalMesh, workers: list[httpx.AsyncClient]) -> str:
    """A key that may do everything, but with other models."""
    rights = [word for right in Right for word in ("--right", right)]
    return await add(mesh, workers, "boards", "--model", "board-*", *rights)


async def keys(mesh: LocalMesh, *arguments: str) -> Finished:
    """Run `visionmesh keys` against the mesh."""
    return await finish(mesh.settings.state_dir, "keys", *arguments)


async def add(mesh: LocalMesh, workers: list[httpx.AsyncClient], *arguments: str) -> str:
    """Return a new key that every worker has heard of."""
    added = await keys(mesh, "add", *arguments)
    assert added.status == 0, added.err
    key = added.out.strip()

    async def known() -> bool:
        answers = [await worker.get("/v2", headers=bearer(key)) for worker in workers]
        return all(answer.status_code != 401 for answer in answers)

    await until(known)
    return key


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def infer(worker: httpx.AsyncClient, key: str) -> httpx.Response:
    return await worker.post(INFER, headers=bearer(key), content=picture())


async def test_a_key_opens_the_mesh_until_it_is_revoked(
    mesh: LocalMesh, workers: list[httpx.AsyncClient]
) -> None:
    refused = await workers[0].post(INFER, content=picture())
    assert refused.status_code == 401
    key = await add(mesh, workers, "line-3")
    assert [(await infer(worker, key)).status_code for worker in workers] == [200, 200]
    (record,) = (await keys(mesh, "list", "--json")).documents
    assert record["name"] == "line-3"
    assert record["rights"] == ["infer", "publish", "read"]
    assert "sha256" not in record
    assert key not in str(record)
    assert record["id"] in (await keys(mesh, "list")).out
    assert (await keys(mesh, "revoke", "line-3")).status == 0

    async def revoked() -> bool:
        answers = [await infer(worker, key) for worker in workers]
        return all(answer.status_code == 401 for answer in answers)

    await until(revoked)
    assert "was revoked" in (await keys(mesh, "list")).out
    assert (await keys(mesh, "revoke", "line-3")).status == 1


async def test_a_key_is_for_its_models_and_rights(
    mesh: LocalMesh, workers: list[httpx.AsyncClient]
) -> None:
    other = await add(mesh, workers, "other", "--model", "board-*")
    assert (await infer(workers[0], other)).status_code == 403
    reader = await add(mesh, workers, "reader", "--right", "read")
    assert (await infer(workers[0], reader)).status_code == 403
    metrics = await workers[0].get("/metrics", headers=bearer(reader))
    assert metrics.status_code == 200
    assert (await workers[0].get("/metrics")).status_code == 401
    assert (await workers[0].get("/healthz")).status_code == 200


async def allowed(workers: list[httpx.AsyncClient], key: str, times: int) -> Counter[int]:
    """Return how often each status came of single images, sent to the workers in turn."""
    raw = bearer(key) | {"Inference-Header-Content-Length": "0"}
    path = f"/v2/models/{CLASSIFIER}/infer"
    answers = [
        await workers[number % 2].post(path, headers=raw, content=picture())
        for number in range(times)
    ]
    for answer in answers:
        if answer.status_code == 429:
            assert int(answer.headers["retry-after"]) >= 1
    return Counter(answer.status_code for answer in answers)


async def test_all_workers_share_a_rate(mesh: LocalMesh, workers: list[httpx.AsyncClient]) -> None:
    key = await add(mesh, workers, "rated", "--rate", "6/h")
    assert await allowed(workers, key, 12) == {200: 6, 429: 6}


async def test_each_worker_limits_alone_without_valkey(
    mesh: LocalMesh, workers: list[httpx.AsyncClient]
) -> None:
    key = await add(mesh, workers, "alone", "--rate", "3/h")
    (valkey,) = mesh.pids["valkey"]
    os.kill(valkey, signal.SIGSTOP)
    try:
        assert await allowed(workers, key, 12) == {200: 6, 429: 6}
    finally:
        os.kill(valkey, signal.SIGCONT)


async def test_grpc_wants_a_key_too(mesh: LocalMesh, workers: list[httpx.AsyncClient]) -> None:
    key = await add(mesh, workers, "grpc")
    image = triton.InferInput("image", [1], "BYTES")
    image.set_data_from_numpy(np.array([picture()], object))
    async with triton.InferenceServerClient(mesh.grpc_url or "") as client:
        with pytest.raises(triton.InferenceServerException) as refused:
            await client.infer(CLASSIFIER, [image])
        assert refused.value.status() == str(grpc.StatusCode.UNAUTHENTICATED)
        headers = {"authorization": f"Bearer {key}"}
        answer = await client.infer(CLASSIFIER, [image], headers=headers)
        assert answer.as_numpy("results") is not None


LISTS = (
    ("GET", "/v1/models", "models"),
    ("GET", "/api/tags", "models"),
    ("GET", "/api/ps", "models"),
    ("POST", "/v2/repository/index", None),
    ("GET", "/v2/models/stats", "model_stats"),
)
"""Method and path of all that tells of every model, and under what it does."""


async def test_a_key_sees_its_models_only_in_every_list(
    mesh: LocalMesh, workers: list[httpx.AsyncClient]
) -> None:
    for models, sees in (("classif*", True), ("board-*", False)):
        key = await add(mesh, workers, f"list {models}", "--model", models, "--right", "read")
        for method, path, where in LISTS:
            answer = await workers[0].request(method, path, headers=bearer(key))
            assert answer.status_code == 200, path
            told = answer.json() if where is None else answer.json()[where]
            assert bool(told) is sees, path
    blind = await add(mesh, workers, "blind", "--right", "infer")
    for method, path, _ in LISTS:
        answer = await workers[0].request(method, path, headers=bearer(blind))
        assert answer.status_code == 403, path


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/show", {"model": "NAME"}),
        ("POST", "/api/pull", {"model": "NAME"}),
        ("DELETE", "/api/delete", {"model": "NAME"}),
        ("POST", "/api/copy", {"source": "NAME", "destination": "board-1"}),
        ("POST", "/api/create", {"model": "board-1", "from": "NAME"}),
        ("POST", "/api/generate", {"model": "NAME"}),
        ("POST", "/api/generate", {"model": "NAME", "prompt": "What is this?"}),
        ("POST", "/api/generate", {"model": "NAME", "keep_alive": 0}),
        ("POST", "/api/embed", {"model": "NAME"}),
        ("POST", "/v2/repository/models/NAME/load", {}),
        ("GET", "/v2/models/NAME", None),
        ("GET", "/v1/models/NAME", None),
    ],
)
async def test_a_key_for_other_models_does_not_learn_which_are_there(
    workers: list[httpx.AsyncClient],
    board_key: str,
    method: str,
    path: str,
    body: dict[str, object] | None,
) -> None:
    told = []
    for name in (CLASSIFIER, "nobody"):
        asked = json.dumps(body).replace("NAME", name) if body is not None else None
        answer = await workers[0].request(
            method, path.replace("NAME", name), headers=bearer(board_key), content=asked
        )
        told.append((answer.status_code, answer.text.replace(name, "NAME")))
    assert told[0] == told[1]
    assert told[0][0] == 403
