"""Our own REST interface, as its users have it."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

from tests.mesh.conftest import CLASSIFIER, picture
from tests.polling import until
from visionmesh.client import Mesh
from visionmesh.contracts import Params, Result, Status
from visionmesh.local import LocalMesh

INFER = f"/v1/models/{CLASSIFIER}/infer"
EVENTS = f"/v1/models/{CLASSIFIER}/events"


def result_of(answer: httpx.Response) -> Result:
    assert answer.status_code == 200, answer.text
    return Result.model_validate_json(answer.content)


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def in_base64(image: bytes) -> str:
    return base64.b64encode(image).decode()


async def test_json_brings_an_image_in_base64(http: httpx.AsyncClient, mesh: Mesh) -> None:
    body = picture()
    asked = {"data": in_base64(body), "params": {"top_k": 1}}
    found = result_of(await http.post(INFER, json=asked))
    assert found.classes == (await mesh.infer(CLASSIFIER, body, params=Params(top_k=1))).classes
    assert len(result_of(await http.post(f"{INFER}?top_k=2", json=asked)).classes or ()) == 2


async def test_several_images_have_a_list_of_results_in_their_order(
    http: httpx.AsyncClient, mesh: Mesh
) -> None:
    bodies = [picture(), b"no image", picture()]
    form = await http.post(INFER, files=[("image", (f"{n}", b)) for n, b in enumerate(bodies)])
    listed = await http.post(INFER, json=[{"data": in_base64(body)} for body in bodies])
    for answer in (form, listed):
        assert answer.status_code == 200
        results = [Result.model_validate(one) for one in answer.json()["results"]]
        assert [one.status for one in results] == [Status.OK, Status.ERROR, Status.OK]
        assert len({one.id for one in results}) == 3
        for body, one in zip(bodies[::2], results[::2], strict=True):
            assert one.classes == (await mesh.infer(CLASSIFIER, body)).classes


async def test_a_list_of_one_has_a_list_of_one(http: httpx.AsyncClient) -> None:
    answer = await http.post(INFER, json=[{"data": in_base64(picture())}])
    assert [one["status"] for one in answer.json()["results"]] == ["ok"]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"null",
        b"[" * 10_000,
        b'{"data": "' + b"[" * 10_000,
        b'{"data": "AAAA", "url": "https://example.org"}',
        b'{"data": "not base64!"}',
        b'{"data": "\xff\xfe"}',
        b'{"data": 7}',
        b'{"data": "AAAA", "params": {"top_k": true}}',
        b'{"data": "AAAA", "params": {"confidense": 1}}',
        b"[" + b",".join([b'{"data": "AAAA"}'] * 17) + b"]",
    ],
)
async def test_json_that_is_not_as_it_must_be_is_refused(
    http: httpx.AsyncClient, body: bytes
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await http.post(INFER, content=body, headers=headers)
    assert code(answer) == (400, "invalid_request")
    assert len(answer.text) < 1000
    assert (await http.post(INFER, content=picture())).status_code == 200


@pytest.mark.parametrize("url", ["https://example.org/a.jpg", "http://127.0.0.1/", "file:///etc"])
async def test_no_url_is_fetched_unless_its_host_is_allowed(
    http: httpx.AsyncClient, url: str
) -> None:
    assert code(await http.post(INFER, json={"url": url})) == (422, "url_refused")


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("image/jpeg", "image/jpeg"),
        ("image/png;q=0.9, application/json;q=0.5", "image/png"),
        ("text/html, image/png;q=0.1, */*;q=0.8", "application/json"),
        ("image/webp", "application/json"),
    ],
)
async def test_who_accepts_a_picture_gets_the_image_drawn_on(
    http: httpx.AsyncClient, accept: str, kind: str
) -> None:
    body = picture(160, 120, kind="PNG")
    answer = await http.post(INFER, content=body, headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    if kind.startswith("image/"):
        drawn, given = (
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            for data in (answer.content, body)
        )
        assert drawn is not None
        assert given is not None
        assert drawn.shape == given.shape
        assert np.abs(drawn.astype(int) - given)[:20].max() > 100  # the caption


async def test_an_error_is_no_picture(http: httpx.AsyncClient) -> None:
    headers = {"Accept": "image/jpeg"}
    answer = await http.post(INFER, content=b"no image", headers=headers)
    assert answer.headers["content-type"] == "application/json"
    assert 400 <= answer.status_code < 500


async def test_an_event_is_taken_and_its_result_is_at_its_location(
    http: httpx.AsyncClient,
) -> None:
    body = picture()
    answer = await http.post(f"{EVENTS}?source=gate-1&top_k=1", content=body)
    assert answer.status_code == 202
    accepted = answer.json()
    assert answer.headers["location"] == accepted["location"]
    found = result_of(await http.get(accepted["location"] + "&timeout=20"))
    assert (found.id, found.source, found.status) == (accepted["id"], "gate-1", Status.OK)
    assert len(found.classes or ()) == 1
    again = result_of(await http.get(f"/v1/results/{found.id}"))
    assert again == found


async def test_cloud_events_are_taken_in_both_modes(http: httpx.AsyncClient) -> None:
    image = picture()
    attributes = {"specversion": "1.0", "type": "io.visionmesh.image", "source": "/cam/7"}
    headers = {f"ce-{name}": value for name, value in attributes.items()}
    binary = await http.post(EVENTS, content=image, headers={**headers, "ce-id": "binary %C3%BC/1"})
    structured = await http.post(
        EVENTS,
        content=json.dumps({**attributes, "id": "structured", "data_base64": in_base64(image)}),
        headers={"Content-Type": "application/cloudevents+json"},
    )
    for answer, id in ((binary, "binary ü/1"), (structured, "structured")):
        assert answer.status_code == 202, answer.text
        found = result_of(await http.get(answer.json()["location"] + "&timeout=20"))
        assert (found.id, found.status) == (id, Status.OK)
    assert binary.json()["source"] == structured.json()["source"]


@pytest.mark.parametrize(
    ("path", "content", "headers", "expected"),
    [
        ("/v1/models/nobody/events", b"x", {}, (404, "unknown_model")),
        (EVENTS, b"", {}, (400, "empty_body")),
        (f"{EVENTS}?source=A.B", b"x", {}, (400, "invalid_name")),
        (f"{EVENTS}?sauce=a", b"x", {}, (400, "invalid_params")),
        (EVENTS, b"x", {"ce-id": "a" * 300}, (400, "invalid_id")),
        (EVENTS, b"{", {"Content-Type": "application/cloudevents+json"}, (400, "invalid_event")),
    ],
)
async def test_an_event_that_cannot_be_taken_is_refused(
    http: httpx.AsyncClient,
    path: str,
    content: bytes,
    headers: dict[str, str],
    expected: tuple[int, str],
) -> None:
    assert code(await http.post(path, content=content, headers=headers)) == expected


async def test_a_result_that_is_not_there_is_not_found(http: httpx.AsyncClient) -> None:
    assert code(await http.get("/v1/results/nothing?timeout=0.05")) == (404, "not_found")
    assert code(await http.get("/v1/results/nothing?timeout=1000")) == (400, "invalid_request")
    assert code(await http.get("/v1/results/nothing?model=A.*")) == (400, "invalid_request")


async def frames(lines: AsyncIterator[str]) -> AsyncIterator[tuple[int, Result]]:
    """Yield what a stream of server-sent events tells."""
    place = 0
    async for line in lines:
        name, _, value = line.partition(": ")
        if name == "id":
            place = int(value)
        elif name == "data":
            yield place, Result.model_validate_json(value)


async def test_results_come_as_server_sent_events_and_resume_where_they_were_left(
    http: httpx.AsyncClient, mesh: Mesh
) -> None:
    url = f"/v1/results?model={CLASSIFIER}&source=stream"
    async with http.stream("GET", url) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        ids = [await mesh.publish(CLASSIFIER, picture(), source="stream") for _ in range(3)]
        stream = frames(answer.aiter_lines())
        first, result = await anext(stream)
        seen = [result.id]
    async with http.stream("GET", url, headers={"Last-Event-ID": str(first)}) as answer:
        stream = frames(answer.aiter_lines())
        seen += [(await anext(stream))[1].id for _ in range(2)]
    assert sorted(seen) == sorted(ids)


@pytest.mark.parametrize(
    ("query", "headers"),
    [("model=A.*", {}), ("since=now", {}), ("sinc=1", {}), ("", {"Last-Event-ID": "-1"})],
)
async def test_a_stream_that_cannot_be_is_refused(
    http: httpx.AsyncClient, query: str, headers: dict[str, str]
) -> None:
    answer = await http.get(f"/v1/results?{query}", headers=headers)
    assert code(answer) == (400, "invalid_request")


async def test_readers_that_went_away_take_no_places(http: httpx.AsyncClient) -> None:
    for _ in range(70):
        async with http.stream("GET", "/v1/results") as answer:
            if answer.status_code == 503:
                break

    async def free() -> bool:
        async with http.stream("GET", "/v1/results") as answer:
            return answer.status_code == 200

    await until(free)


async def test_models_are_told(http: httpx.AsyncClient) -> None:
    told = (await http.get("/v1/models")).json()["models"]
    assert {"classifier", "uncached"} <= {one["name"] for one in told}
    [one] = [one for one in told if one["name"] == CLASSIFIER]
    assert one == (await http.get(f"/v1/models/{CLASSIFIER}")).json()
    assert one["labels"] == ["ant", "bee", "cat", "dog"]
    assert one["ready"] is True
    assert code(await http.get("/v1/models/nobody")) == (404, "unknown_model")


async def test_http_2_carries_many_images_on_one_connection(local_mesh: LocalMesh) -> None:
    async with httpx.AsyncClient(
        base_url=local_mesh.http_url, http1=False, http2=True, timeout=60
    ) as client:
        bodies = [picture(24, 16) for _ in range(100)]
        answers = await asyncio.gather(*(client.post(INFER, content=body) for body in bodies))
    assert {answer.http_version for answer in answers} == {"HTTP/2"}
    assert len({result_of(answer).id for answer in answers}) == 100


async def test_pages_of_strangers_are_refused(http: httpx.AsyncClient) -> None:
    for headers in ({"Origin": "https://example.com"}, {"Host": "evil.example.com"}):
        assert code(await http.post(INFER, content=picture(), headers=headers)) == (
            403,
            "forbidden",
        )


FUZZ = """
[parameters]
"path.model" = "classifier"
"query.timeout" = 0.05
"header.Vm-Deadline" = "2100-01-01T00:00:00Z"
"""
"""A model that is there, so that requests get beyond its name; and times that do not hold up."""


async def test_the_documentation_is_true_whatever_is_sent(
    local_mesh: LocalMesh, tmp_path: Path
) -> None:
    (tmp_path / "schemathesis.toml").write_text(FUZZ)
    fuzzing = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).with_name("schemathesis")), "--config-file"),
        *("schemathesis.toml", "run", f"{local_mesh.http_url}/openapi.json", "--no-color"),
        *("--max-examples", "5", "--phases", "coverage,fuzzing", "--request-timeout", "20"),
        "--generation-deterministic",
        # A stream of results has no end.
        *("--exclude-path", "/v1/results"),
        # Bytes that are an image cannot be described.
        *("--exclude-checks", "positive_data_acceptance"),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await fuzzing.communicate()
    assert fuzzing.returncode == 0, said.decode()


async def test_every_route_is_documented(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    assert set(document["paths"]) == {
        "/v1/models",
        "/v1/models/{model}",
        "/v1/models/{model}/infer",
        "/v1/models/{model}/events",
        "/v1/results",
        "/v1/results/{id}",
    }


async def post_alone(url: httpx.URL, path: str, body: bytes) -> tuple[int, bytes]:
    """Return status and head of the answer on a connection of its own."""
    reader, writer = await asyncio.open_connection(url.host, url.port)
    head = f"POST {path} HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return int(answer.split(b" ", 2)[1]), answer.lower()


async def test_more_clients_than_there_are_places_are_answered_or_refused(
    local_mesh: LocalMesh, http: httpx.AsyncClient
) -> None:
    url, body = httpx.URL(local_mesh.http_url), picture(200, 150)
    most, clients = local_mesh.settings.ingest.max_requests, 400
    posts = [post_alone(url, "/v1/models/uncached/infer", body) for _ in range(clients)]
    async with asyncio.timeout(60):
        answers = await asyncio.gather(*posts)
    answered = sum(status == 200 for status, _ in answers)
    refused = [head for status, head in answers if status == 503]
    assert answered + len(refused) == clients
    assert answered >= most
    assert all(b"retry-after: " in head for head in refused)
    assert (await http.post(INFER, content=picture())).status_code == 200


async def test_images_of_clients_that_went_away_are_not_worked_on(
    local_mesh: LocalMesh, http: httpx.AsyncClient
) -> None:
    url, body = httpx.URL(local_mesh.http_url), picture(800, 600)
    path = "/v1/models/uncached/infer"
    writers = []
    for _ in range(50):
        _, writer = await asyncio.open_connection(url.host, url.port)
        head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        writers.append(writer)
    for writer in writers:
        writer.close()

    async def none_in_hand() -> bool:
        return 'visionmesh_in_flight{stage="ingest"} 0.0' in (await http.get("/metrics")).text

    await until(none_in_hand)
    assert (await http.post(INFER, content=picture())).status_code == 200
