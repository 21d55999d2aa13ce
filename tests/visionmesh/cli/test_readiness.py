"""A push ends when the mesh serves what was pushed."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import onnx

from tests.mesh.conftest import SIZE, picture, write_classifier
from tests.networks import save_network, spoil_network
from tests.polling import until
from tests.visionmesh.cli.conftest import Run, finish
from visionmesh.bus import Connection
from visionmesh.client import Mesh
from visionmesh.embedded import NatsServer
from visionmesh.local import LocalMesh
from visionmesh.nodes import Nodes


async def test_the_first_request_after_a_push_is_answered(
    visionmesh: Run, running: LocalMesh, tmp_path: Path
) -> None:
    pushed = await visionmesh("push", write_classifier(tmp_path, name="fresh"))
    assert (pushed.status, pushed.err) == (0, "")
    async with httpx.AsyncClient(base_url=running.http_url, timeout=30) as http:
        answer = await http.post("/v1/models/fresh/infer", content=picture())
    assert answer.status_code == 200, answer.text


async def test_a_model_that_no_worker_can_load_fails_the_push_until_it_is_mended(
    visionmesh: Run, tmp_path: Path
) -> None:
    folder = write_classifier(tmp_path, name="mended")
    file = folder / "1" / "model.onnx"
    spoil_network(file)
    refused = await visionmesh("push", folder)
    assert (refused.status, refused.out) == (2, "")
    assert "[model_failed]" in refused.err or "[model_invalid]" in refused.err
    failed = await visionmesh("push", folder, "--no-check")
    assert failed.status == 1
    assert "Version 1 of mended is stored, but cannot be served: " in failed.err
    assert "[model_failed]" in failed.err
    assert failed.out == "mended: versions 1\n"
    save_network(file, shape=("n", 3, SIZE, SIZE))
    assert (await visionmesh("push", folder, "--replace")).status == 0


async def test_only_what_the_mesh_does_not_have_is_tried(visionmesh: Run, tmp_path: Path) -> None:
    folder = write_classifier(tmp_path, name="noisy")
    file = folder / "1" / "model.onnx"
    network = onnx.load(file)
    network.graph.node.append(onnx.helper.make_node("RandomNormalLike", ["scores"], ["noise"]))
    network.graph.output[0].name = "noise"
    onnx.save(network, file)
    assert "[verification_failed]" in (await visionmesh("push", folder)).err
    assert (await visionmesh("push", folder, "--no-check")).status == 0

    save_network(folder / "2" / "model.onnx", shape=("n", 3, SIZE, SIZE))
    both = await visionmesh("push", folder)
    assert (both.status, both.out) == (0, "noisy: versions 1, 2\n")
    described = (folder / "model.yaml").read_text().replace("top_k: 2", "top_k: 1")
    (folder / "model.yaml").write_text(described)
    assert "noisy/1/model.onnx is not fit to serve" in (await visionmesh("push", folder)).err


async def test_the_wait_is_bounded_and_0_does_not_wait(visionmesh: Run, tmp_path: Path) -> None:
    folder = write_classifier(tmp_path, name="late")
    spoil_network(folder / "1" / "model.onnx")
    assert (await visionmesh("push", folder, "--no-check", "--wait", "0")).status == 0
    # Nothing changed, so no worker tries anew, and what it said before holds.
    again = await visionmesh("push", folder, "--no-check", "--wait", "20")
    assert (again.status, "[model_failed]" in again.err) == (1, True)


async def test_a_push_waits_for_those_who_admit_run_and_decode(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path, name="whispered")
    async with AsyncExitStack() as stack:
        nats = await stack.enter_async_context(NatsServer(store=tmp_path / "nats"))
        connection = await Connection.open(nats.url, name="workers")
        stack.push_async_callback(connection.close)
        workers = {}
        for stage in ("infer", "ingest", "postprocess"):
            workers[stage] = Nodes(nc=connection.client, node="n", stage=stage)
            await workers[stage].start(load=lambda: 0)
            stack.push_async_callback(workers[stage].stop)
        await workers["infer"].update(ready=True, models={"whispered": (1,)})
        await workers["ingest"].update(ready=True)
        push = ("push", folder, "--nats", nats.url, "--no-check", "--wait")
        deaf = await finish(tmp_path, *push, "0.5")
        assert (deaf.status, "[model_not_ready]" in deaf.err) == (1, True)
        await workers["ingest"].update(heard={"whispered": (1,)})
        undecided = await finish(tmp_path, *push, "0.5")
        assert (undecided.status, "[model_not_ready]" in undecided.err) == (1, True)
        await workers["postprocess"].update(applied={"whispered": 1000})
        unloaded = await finish(tmp_path, *push, "0.5")
        assert (unloaded.status, "[model_not_ready]" in unloaded.err) == (1, True)
        await workers["infer"].update(applied={"whispered": 1000})
        assert (await finish(tmp_path, *push, "30")).status == 0


async def test_a_model_for_devices_that_no_node_has_is_not_waited_for(
    visionmesh: Run, tmp_path: Path
) -> None:
    folder = write_classifier(tmp_path, name="remote")
    with (folder / "model.yaml").open("a") as file:
        file.write("instances: [{device: 'cuda:77'}]\n")
    pushed = await visionmesh("push", folder)
    assert (pushed.status, pushed.out) == (0, "remote: versions 1\n")
    assert pushed.err == "remote: no node has its devices; the first one that does loads it.\n"


async def test_ingest_tells_what_it_gives_images_to(
    visionmesh: Run, running: LocalMesh, tmp_path: Path
) -> None:
    assert (await visionmesh("push", write_classifier(tmp_path, name="told"))).status == 0
    async with Mesh(running.nats_url) as mesh:

        async def heard() -> dict[str, tuple[int, ...]]:
            (ingest,) = [node for node in await mesh.nodes() if node.stage == "ingest"]
            return ingest.heard

        async def gone() -> bool:
            return "told" not in await heard()

        assert (await heard())["told"] == (1,)
        assert (await visionmesh("rm", "told")).status == 0
        await until(gone)


async def test_without_an_infer_worker_nothing_is_waited_for(tmp_path: Path) -> None:
    async with NatsServer(store=tmp_path / "nats") as nats:
        folder = write_classifier(tmp_path, name="early")
        pushed = await finish(tmp_path, "push", folder, "--nats", nats.url)
    assert pushed.status == 0
    assert pushed.err == "No infer worker is there: the first one that starts loads it.\n"
