"""The edge of our own REST interface: its documentation, its protocols, strangers and crowds."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import httpx

from tests.mesh.answers import INFER, code, result_of
from tests.mesh.conftest import picture
from tests.polling import until
from visionmesh.local import LocalMesh


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
