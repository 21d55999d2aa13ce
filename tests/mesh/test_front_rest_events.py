"""Events that are sent by REST, and results that are read by it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.mesh.answers import EVENTS, code, in_base64, result_of
from tests.mesh.conftest import CLASSIFIER, picture
from tests.polling import until
from visionmesh.client import Mesh
from visionmesh.contracts import Result, Status


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
