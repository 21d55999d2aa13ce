"""The stock client of Ollama works on the mesh, and is told the same as any other."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import nats
import numpy as np
import pytest
from nats.aio.client import Client

from tests.mesh.conftest import picture, write_classifier
from tests.mesh.slow import held, push_slow
from tests.polling import until
from visionmesh.client import Mesh
from visionmesh.contracts import Result, Status
from visionmesh.local import LocalMesh
from visionmesh.models.folder import load_folder
from visionmesh.models.registry import Registry
from visionmesh.nodes import list_nodes

SEEING = "ollama-seeing"
EMBEDDING = "ollama-embedding"
CLIENT = Path(__file__).parents[1] / "clients" / "ollama_client.py"
COUNT = 36
"""Images of clients that hang up, of those in the queue at least."""
IMAGE = picture()
BASE64 = base64.b64encode(IMAGE).decode()


@pytest.fixture(scope="module")
async def nc(local_mesh: LocalMesh) -> AsyncIterator[Client]:
    nc = await nats.connect(local_mesh.nats_url)
    yield nc
    await nc.close()


@pytest.fixture(scope="module", autouse=True)
async def registry(nc: Client, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Registry]:
    """Two models of this file's own, which it unloads and loads."""
    root = tmp_path_factory.mktemp("ollama")
    registry = Registry(nc)
    await registry.push(load_folder(write_classifier(root, name=SEEING)))
    embedding: dict[str, Any] = {
        "task": "embedding", "output": {"decoder": "embedding"}, "labels": []
    }  # fmt: skip
    await registry.push(load_folder(write_classifier(root, name=EMBEDDING, **embedding)))

    async def served() -> bool:
        nodes = await list_nodes(nc)
        doors = [node for node in nodes if node.stage == "ingest"]
        return all(
            any(name in node.models for node in nodes) and all(name in door.heard for door in doors)
            for name in (SEEING, EMBEDDING)
        )

    await until(served)
    yield registry
    await registry.remove(SEEING)
    await registry.remove(EMBEDDING)


@pytest.fixture(scope="module")
async def told(
    local_mesh: LocalMesh, registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the stock client was answered, in a process of its own."""
    root = tmp_path_factory.mktemp("client")
    image = root / "image.jpg"
    image.write_bytes(IMAGE)
    folder = write_classifier(root, name="ollama-made")
    arguments = (local_mesh.http_url, SEEING, EMBEDDING, str(image), str(folder))
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(CLIENT), *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    answers: dict[str, Any] = json.loads(output)
    return answers


async def test_it_is_told_what_the_mesh_tells(told: dict[str, Any], mesh: Mesh) -> None:
    result = await mesh.infer(SEEING, IMAGE)
    assert result.classes is not None
    best = result.classes[0]
    text = f"This is {'an' if best.label == 'ant' else 'a'} {best.label} ({best.score:.2f})."
    answers = told["recognise"]

    assert answers["whole"]["response"] == text
    assert answers["chat"]["content"] == text
    assert "".join(answers["parts"]) == "".join(answers["spoken"]) == text
    assert len(answers["parts"]) == len(text.split()) + 1
    assert answers["two"] == f"1. {text}\n2. {text}"
    own = json.loads(result.model_dump_json(include={"classes"}))
    assert json.loads(answers["json"]) == json.loads(answers["schema"]) == own
    assert json.loads(answers["one"])["classes"] == own["classes"][:1]
    assert told["concurrently"]["whole"] == [text] * 8
    assert "".join(told["concurrently"]["parts"]) == text


async def test_an_answer_ends_with_what_it_took(told: dict[str, Any]) -> None:
    for last in (told["recognise"]["whole"], told["recognise"]["last"]):
        assert (last["done"], last["done_reason"], last["prompt_eval_count"]) == (True, "stop", 1)
        assert last["total_duration"] > 0


async def test_an_embedding_has_the_length_1(told: dict[str, Any], mesh: Mesh) -> None:
    result = await mesh.infer(EMBEDDING, IMAGE)
    own = np.array(result.embedding)
    answers = told["embed"]

    np.testing.assert_allclose(answers["old"], own)
    for vector in answers["embed"]:
        np.testing.assert_allclose(vector, own / np.linalg.norm(own), rtol=1e-9)
    np.testing.assert_allclose(answers["short"][0], own[:2] / np.linalg.norm(own[:2]), rtol=1e-9)


async def test_models_are_made_of_others_and_of_files(
    told: dict[str, Any], registry: Registry
) -> None:
    answers = told["library"]
    record = await registry.get(SEEING)

    assert answers["blobs"] == [True, ["1/model.onnx", "model.yaml"]]
    assert answers["made"] == ["checking and storing the model", "success"]
    assert answers["pull"] == ["pulling manifest", "success"]
    made = {f"{name}:latest" for name in ("ollama-made", "ollama-copy", "ollama-child")}
    assert made <= answers["list"].keys()
    assert made.isdisjoint(answers["left"])
    assert answers["list"][f"{SEEING}:latest"]["size"] == record.versions[1].size_bytes
    assert "top_k 1" in answers["child"].splitlines()
    assert "vision" in answers["show"]["capabilities"]
    info = answers["show"]["modelinfo"]
    assert info[f"{info['general.architecture']}.labels"] == ["ant", "bee", "cat", "dog"]


async def test_a_model_that_was_made_a_moment_ago_answers(http: httpx.AsyncClient) -> None:
    try:
        for path, body in (
            ("/api/copy", {"source": SEEING, "destination": "just-copied"}),
            ("/api/create", {"from": SEEING, "model": "just-made", "stream": False}),
        ):
            assert (await http.post(path, json=body)).status_code == 200
            name = body.get("destination") or body["model"]
            ask = {"model": name, "images": [BASE64], "stream": False}
            answer = await http.post("/api/generate", json=ask)
            assert answer.status_code == 200, answer.text
            assert answer.json()["response"]
    finally:
        for name in ("just-copied", "just-made"):
            await http.request("DELETE", "/api/delete", json={"model": name})


async def test_a_model_leaves_the_memory_and_comes_back_with_the_next_image(
    told: dict[str, Any],
) -> None:
    answers, name = told["memory"], f"{SEEING}:latest"
    assert (answers["load"], answers["unload"]) == ("load", "unload")
    assert name in answers["there"]
    assert name not in answers["gone"]
    assert answers["back"] == told["recognise"]["whole"]["response"]
    assert name in answers["again"]


async def test_errors_have_the_status_and_the_words_of_ollama(told: dict[str, Any]) -> None:
    answers = told["errors"]
    assert answers["absent"] == [404, "model 'nothing' not found"]
    statuses = {name: status for name, (status, _) in answers.items()}
    assert statuses == {
        "absent": 404,
        "absent stream": 404,
        "tag": 404,
        "version": 404,
        "text": 400,
        "no image": 422,
        "option": 400,
        "schema": 400,
        "embed": 400,
        "pull": 404,
        "push": 400,
        "delete": 404,
        "copy": 404,
        "create": 400,
    }
    assert "colour" in answers["schema"][1]
    assert "confidence" in answers["option"][1]


async def test_events_wait_for_a_model_that_was_unloaded(
    http: httpx.AsyncClient, mesh: Mesh, nc: Client
) -> None:
    stop = {"model": SEEING, "keep_alive": "0s", "stream": False}
    assert (await http.post("/api/generate", json=stop)).json()["done_reason"] == "unload"
    raw = {"Inference-Header-Content-Length": "0"}
    for protocol in ("/v1", "/v2"):
        path = f"{protocol}/models/{SEEING}/infer"
        refused = await http.post(path, content=IMAGE, headers=raw)
        assert refused.status_code == 503
        assert "was unloaded. Load it with POST /v2/repository/models/" in refused.text
    id = await mesh.publish(SEEING, picture(), source="waiting")

    consumer = await nc.jetstream().consumer_info("EVENTS", f"ingest_{SEEING}")
    # A request for events from before may still have fetched it, to be delivered again.
    assert consumer.num_pending + consumer.num_ack_pending == 1

    assert (await http.post("/api/generate", json={"model": SEEING})).status_code == 200

    async def answered() -> bool:
        result = await mesh.result(SEEING, "waiting", id)
        return result is not None and result.status is Status.OK

    await until(answered)


async def test_no_event_is_lost_while_a_model_is_unloaded_and_loaded(
    http: httpx.AsyncClient, mesh: Mesh
) -> None:
    ids = [await mesh.publish(SEEING, picture(), source="burst") for _ in range(20)]
    stop = {"model": SEEING, "keep_alive": 0}
    assert (await http.post("/api/generate", json=stop)).json()["done_reason"] == "unload"
    ids += [await mesh.publish(SEEING, picture(), source="burst") for _ in range(5)]
    assert (await http.post("/api/generate", json={"model": SEEING})).status_code == 200

    async def answered() -> list[Result]:
        found = [await mesh.result(SEEING, "burst", id) for id in ids]
        return [one for one in found if one is not None] if all(found) else []

    results = await until(answered, within=30)
    assert {result.status for result in results} == {Status.OK}


async def test_images_of_a_client_that_has_gone_are_left_undone(
    local_mesh: LocalMesh, mesh: Mesh, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    await push_slow(local_mesh, tmp_path)
    assert (await http.post("/api/generate", json={"model": "slow"})).status_code == 200
    many = {"model": "slow", "images": [base64.b64encode(picture()).decode() for _ in range(16)]}
    async with httpx.AsyncClient(base_url=local_mesh.http_url) as gone:
        asking = [asyncio.create_task(gone.post("/api/generate", json=many)) for _ in range(3)]
        await until(lambda: held(mesh, least=COUNT))
        for one in asking:
            one.cancel()
        await asyncio.wait(asking)
    loop = asyncio.get_running_loop()
    began = loop.time()
    single = {"model": "slow", "images": [base64.b64encode(picture()).decode()], "stream": False}
    answer = (await http.post("/api/generate", json=single)).json()
    took = loop.time() - began
    # The others would have been worked off first, one after the other.
    assert took < COUNT * answer["eval_duration"] / 1e9 / 2


async def test_what_the_command_line_asks_first_is_answered(http: httpx.AsyncClient) -> None:
    root = await http.head("/")
    assert (root.status_code, root.content) == (200, b"")
    assert (await http.get("/")).text == "Ollama is running"
    assert (await http.head("/api/tags")).status_code == 200
    version = (await http.get("/api/version")).json()["version"]
    assert tuple(map(int, version.split("."))) >= (0, 6, 4)
    info = (await http.post("/api/show", json={"name": SEEING})).json()["model_info"]
    architecture = info["general.architecture"]
    lengths = (
        "general.parameter_count",
        *(f"{architecture}.{n}_length" for n in ("context", "embedding")),
    )
    assert all(isinstance(info[name], int) for name in lengths)
    loading = await http.post("/api/generate", json={"model": SEEING, "prompt": ""})
    assert loading.json()["done_reason"] == "load"
    chat = {"model": SEEING, "messages": [{"role": "user", "content": "hm", "images": [BASE64]}]}
    spoken = [
        json.loads(line) for line in (await http.post("/api/chat", json=chat)).text.splitlines()
    ]
    assert [line["done"] for line in spoken] == [False] * (len(spoken) - 1) + [True]


@pytest.mark.skipif(shutil.which("ollama") is None, reason="the command line is not installed")
async def test_the_command_line_lists_shows_and_runs(local_mesh: LocalMesh, tmp_path: Path) -> None:
    image = tmp_path / "image.jpg"
    image.write_bytes(IMAGE)
    for arguments in (["list"], ["show", SEEING], ["run", SEEING, f"What is this? {image}"]):
        process = await asyncio.create_subprocess_exec(
            "ollama", *arguments, env={"OLLAMA_HOST": local_mesh.http_url, "HOME": str(tmp_path)}
        )
        assert await process.wait() == 0
