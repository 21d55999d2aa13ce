"""A push ends when the mesh serves what was pushed."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.mesh.conftest import SIZE, picture, write_classifier
from tests.networks import save_network, spoil_network
from tests.visionmesh.cli.conftest import Run, finish
from visionmesh.embedded import NatsServer
from visionmesh.local import LocalMesh


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
    assert "Version 1 of mended is stored, but cannot be loaded: " in failed.err
    assert "[model_failed]" in failed.err
    assert failed.out == "mended: versions 1\n"
    save_network(file, shape=("n", 3, SIZE, SIZE))
    assert (await visionmesh("push", folder)).status == 0


async def test_the_wait_is_bounded_and_0_does_not_wait(visionmesh: Run, tmp_path: Path) -> None:
    folder = write_classifier(tmp_path, name="late")
    spoil_network(folder / "1" / "model.onnx")
    assert (await visionmesh("push", folder, "--no-check", "--wait", "0")).status == 0
    # Nothing changed, so no worker tries anew: what it said before is told in the end.
    again = await visionmesh("push", folder, "--no-check", "--wait", "0.5")
    assert (again.status, "late" in again.err) == (1, True)


async def test_without_an_infer_worker_nothing_is_waited_for(tmp_path: Path) -> None:
    async with NatsServer(store=tmp_path / "nats") as nats:
        folder = write_classifier(tmp_path, name="early")
        pushed = await finish(tmp_path, "push", folder, "--nats", nats.url)
    assert pushed.status == 0
    assert pushed.err == "No infer worker is there: the first one that starts loads it.\n"
