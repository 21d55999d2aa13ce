"""The commands against a mesh of real processes."""

from __future__ import annotations

import asyncio
import filecmp
import json
from pathlib import Path
from typing import Any

import cv2
import httpx
import nats

from tests.mesh.conftest import picture, write_classifier
from tests.polling import until
from tests.references import new_traceparent
from tests.visionmesh.cli.conftest import Run
from visionmesh.local import SERVICES, LocalMesh


async def test_ps_lists_the_processes_of_every_stage(visionmesh: Run, running: LocalMesh) -> None:
    found = (await visionmesh("ps", "--json")).documents
    assert {node["pid"] for node in found} == {
        pid for service in SERVICES for pid in running.pids[service]
    }
    table = (await visionmesh("ps")).out
    assert all(service in table for service in SERVICES)
    assert "classifier:1" in table


async def test_models_are_pushed_listed_shown_and_removed(visionmesh: Run, tmp_path: Path) -> None:
    folder = write_classifier(tmp_path, name="passing")
    assert (await visionmesh("push", folder)).out == "passing: versions 1\n"
    listed = (await visionmesh("list", "--json")).documents
    assert {"classifier", "passing"} <= {model["name"] for model in listed}
    [shown] = (await visionmesh("show", "passing", "--json")).documents
    assert shown["spec"]["labels"] == ["ant", "bee", "cat", "dog"]
    assert "decoder: softmax" in (await visionmesh("show", "passing")).out
    assert (await visionmesh("rm", "passing")).status == 0
    gone = await visionmesh("show", "passing")
    assert gone.status == 1
    assert "[unknown_model]" in gone.err


async def test_a_folder_is_published_and_its_results_watched(visionmesh: Run, photos: Path) -> None:
    published = await visionmesh("publish", "classifier", photos, "--source", "cam1", "--json")
    assert published.status == 0
    ids = {document["id"]: document["file"] for document in published.documents}
    assert {Path(str(file)).name for file in ids.values()} == {"a.jpg", "b.PNG", "c.webp"}
    watched = await visionmesh(
        "watch", "classifier", "--source", "cam1", "--since", "1m", "--count", "3", "--json"
    )
    assert {result["id"] for result in watched.documents} == set(ids)
    assert {result["status"] for result in watched.documents} == {"ok"}


async def test_publishing_keeps_to_the_rate(visionmesh: Run, photos: Path) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    published = await visionmesh("publish", "classifier", photos, photos, "--rate", "4")
    assert published.out == "6 of 6 images are published.\n"
    assert loop.time() - began > 5 / 4


async def test_run_shows_and_draws_results(visionmesh: Run, photos: Path, tmp_path: Path) -> None:
    finished = await visionmesh("run", "classifier", photos, "--draw", tmp_path / "drawn")
    assert finished.status == 0
    assert len(finished.out.splitlines()) == 3
    drawn = cv2.imread(str(tmp_path / "drawn" / "a.jpg"))
    original = cv2.imread(str(photos / "a.jpg"))
    assert drawn is not None
    assert original is not None
    assert drawn.shape == original.shape
    assert cv2.absdiff(drawn, original).max() > 50


async def test_run_fails_where_an_image_does(visionmesh: Run, photos: Path, broken: Path) -> None:
    finished = await visionmesh("run", "classifier", broken, photos / "a.jpg", "--json")
    assert finished.status == 1
    statuses = {Path(str(d["file"])).name: d["status"] for d in finished.documents}
    assert statuses == {"broken.jpg": "error", "a.jpg": "ok"}


async def test_an_image_that_cannot_be_drawn_keeps_no_other_from_it(
    visionmesh: Run, photos: Path, broken: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.jpg"
    empty.touch()
    images = (empty, broken, photos / "a.jpg")
    finished = await visionmesh("run", "classifier", *images, "--draw", tmp_path / "drawn")
    assert finished.status == 1
    assert {line for line in finished.err.splitlines() if "drawn" in line} == {
        f"{path} cannot be drawn on: it cannot be decoded here." for path in (empty, broken)
    }
    assert [path.name for path in (tmp_path / "drawn").iterdir()] == ["a.jpg"]


async def test_an_unknown_model_is_told_at_once(visionmesh: Run, photos: Path) -> None:
    for command in ("run", "publish", "bench"):
        finished = await visionmesh(command, "nobody", photos)
        assert finished.status == 1
        assert "There is no model 'nobody' in the mesh" in finished.err
        assert "[unknown_model]" in finished.err
        assert "vm." not in finished.err
        assert len(finished.err.splitlines()) == 1


async def test_an_image_that_no_message_holds_is_refused_by_the_command_and_by_http(
    visionmesh: Run, running: LocalMesh, tmp_path: Path
) -> None:
    large = tmp_path / "large.bmp"
    large.write_bytes(picture(4000, 3400, kind="BMP"))
    assert large.stat().st_size > 40_000_000
    published = await visionmesh("publish", "classifier", large)
    assert published.status == 1
    assert "[payload_too_large]" in published.err
    async with httpx.AsyncClient(base_url=running.http_url, timeout=30) as http:
        url = "/v1/models/classifier/infer"
        answer = await http.post(url, content=large.read_bytes())
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "payload_too_large")
        assert (await http.post(url, content=picture())).status_code == 200


async def test_watching_an_unknown_model_says_so(visionmesh: Run, photos: Path) -> None:
    folder = write_classifier(photos, name="forgotten")
    await visionmesh("push", folder)
    await visionmesh("run", "forgotten", photos)
    await visionmesh("rm", "forgotten")
    watched = await visionmesh("watch", "forgotten", "--since", "1m", "--count", "3")
    assert "[unknown_model]" in watched.err
    assert len(watched.out.splitlines()) == 3


async def test_a_file_that_cannot_be_written_is_told_in_one_line(
    visionmesh: Run, photos: Path
) -> None:
    beneath = photos / "notes.txt" / "drawn"
    finished = await visionmesh("run", "classifier", photos / "a.jpg", "--draw", beneath)
    assert finished.status == 2
    assert finished.err == f"{beneath}: Not a directory\n"


async def test_a_parameter_that_is_out_of_range_is_a_usage_error(
    visionmesh: Run, photos: Path
) -> None:
    finished = await visionmesh("run", "classifier", photos, "--params", '{"top_k": 0}')
    assert finished.status == 2
    assert "top_k" in finished.err


async def test_a_dead_event_is_listed_saved_and_replayed(
    visionmesh: Run, broken: Path, tmp_path: Path
) -> None:
    assert (await visionmesh("run", "classifier", broken)).status == 1
    letter = (await visionmesh("dead", "list", "--json")).documents[-1]
    assert letter["code"] == "not_an_image"
    number = str(letter["number"])
    saved = tmp_path / "saved"
    [shown] = (await visionmesh("dead", "show", number, "--save", saved, "--json")).documents
    assert shown["headers"]["ce-id"] == letter["id"]
    assert filecmp.cmp(saved, broken, shallow=False)

    [again] = (await visionmesh("dead", "replay", number, "--json")).documents
    assert again == {"number": letter["number"], "id": f"{letter['id']}~1"}
    await visionmesh("watch", "--source", letter["source"], "--since", "1m", "--count", "2")
    [second] = (await visionmesh("dead", "replay", number, "--json")).documents
    assert second["id"] == f"{letter['id']}~2"
    gone = await visionmesh("dead", "show", "999999")
    assert (gone.status, "[not_found]" in gone.err) == (1, True)


async def test_bench_tells_throughput_and_latency(visionmesh: Run, photos: Path) -> None:
    finished = await visionmesh("bench", "classifier", photos, "--seconds", "1", "--json")
    assert finished.status == 0
    [values] = finished.documents
    assert values["images"] > 3
    assert values["p50_ms"] <= values["p99_ms"]
    assert (values["cached"], values["failed"], values["unanswered"]) == (0, 0, 0)


async def test_bench_lets_the_caches_answer_when_told_to(visionmesh: Run, photos: Path) -> None:
    finished = await visionmesh(
        "bench", "classifier", photos, "--seconds", "1", "--cached", "--json"
    )
    [values] = finished.documents
    assert values["cached"] > values["images"] / 2


async def test_the_way_of_an_image_is_shown(visionmesh: Run, photos: Path) -> None:
    [result] = (await visionmesh("run", "classifier", photos / "a.jpg", "--json")).documents
    shown = await visionmesh("trace", str(result["trace_id"]))
    assert shown.status == 0
    assert "process infer" in shown.out or "process ingest" in shown.out
    [data] = (await visionmesh("trace", str(result["id"]), "--json")).documents
    assert data["trace_id"] == result["trace_id"]
    unknown = await visionmesh("trace", "0" * 32)
    assert (unknown.status, "[not_found]" in unknown.err) == (1, True)


async def test_two_requests_of_one_trace_are_two_waterfalls_without_events(
    visionmesh: Run, running: LocalMesh
) -> None:
    traceparent = new_traceparent()
    trace_id = traceparent.split("-")[1]
    async with httpx.AsyncClient(base_url=running.http_url, timeout=30) as http:
        for id in ("first", "second"):
            headers = {"traceparent": traceparent, "ce-id": id}
            path = "/v1/models/classifier/infer"
            assert (await http.post(path, content=picture(), headers=headers)).status_code == 200

    async def shown() -> list[dict[str, Any]] | None:
        found = (await visionmesh("trace", trace_id, "--json")).documents
        names = {span["name"] for image in found for span in image["spans"]}
        return found if "process postprocess" in names and len(found) == 2 else None

    images = await until(shown, within=30)
    assert len({image["spans"][0]["span_id"] for image in images}) == 2
    names = {span["name"] for image in images for span in image["spans"]}
    assert "process ingest" in names
    assert not [name for name in names if "EVENTS" in name]
    drawn = (await visionmesh("trace", trace_id)).out
    assert drawn.count(f"trace {trace_id}") == 2


async def test_results_reach_a_plain_client_too(
    visionmesh: Run, running: LocalMesh, photos: Path
) -> None:
    connection = await nats.connect(running.nats_url)
    subscription = await connection.subscribe("vm.results.classifier.plain.*")
    await connection.flush()
    await visionmesh("publish", "classifier", photos / "a.jpg", "--source", "plain")
    message = await subscription.next_msg(timeout=30)
    assert json.loads(message.data)["status"] == "ok"
    await connection.close()
