"""Images that a request names by their URLs, and its client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from services.ingest.forms import handlers, refusal
from services.ingest.gateway import AT_ONCE
from services.ingest.limits import Limits
from services.ingest.presence import Gone
from services.ingest.rest.asked import read_asked
from services.ingest.urls import OF_ONE_REQUEST, Urls
from tests.polling import until
from tests.services.ingest.web import ToThisHost, Web
from visionmesh.http import HttpServer, Message, Scope
from visionmesh.settings import IngestSettings
from visionmesh.settings.ingest import UrlSettings

SLOW = "https://images.example.org/slow"
TIMEOUT = timedelta(seconds=1)


class Reading:
    """An application that reads what it is asked, and what came of that."""

    def __init__(self, urls: Urls) -> None:
        self._urls = urls
        self.gone = 0
        app = Starlette(
            routes=[Route("/", self.read, methods=["POST"])],
            exception_handlers=handlers(refusal),
        )
        self.app = Limits(app=app, settings=IngestSettings())

    async def read(self, request: Request) -> Response:
        try:
            asked = await read_asked(request, self._urls)
        except Gone:
            self.gone += 1
            raise
        return PlainTextResponse(f"{len(asked.images)} {asked.several}")


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    found = Web()
    server = HttpServer(app=found.app, host="127.0.0.1", port=0, grace=timedelta(milliseconds=50))
    found.port = await server.start()
    yield found
    await server.stop()


@pytest.fixture
async def reading(web: Web) -> AsyncIterator[Reading]:
    settings = UrlSettings(hosts=("images.example.org",), timeout=TIMEOUT)
    urls = Urls(settings=settings, max_bytes=100, resolve=web.resolve, transport=ToThisHost(web))
    yield Reading(urls)
    await urls.close()


@pytest.fixture
async def http(reading: Reading) -> AsyncIterator[httpx.AsyncClient]:
    server = HttpServer(app=reading.app, host="127.0.0.1", port=0)
    port = await server.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        yield client
    await server.stop()


def slow(count: int) -> list[dict[str, str]]:
    return [{"url": SLOW}] * count


async def test_images_that_are_named_and_those_that_are_held_come_together(
    http: httpx.AsyncClient, web: Web
) -> None:
    web.released.set()
    several = await http.post("/", json=[*slow(2), {"data": "QUJD"}])
    assert (several.status_code, several.text) == (200, "3 True")
    assert (await http.post("/", json=slow(1)[0])).text == "1 False"


async def test_a_request_leaves_places_to_others(http: httpx.AsyncClient, web: Web) -> None:
    began = asyncio.get_running_loop().time()
    asking = asyncio.create_task(http.post("/", json=slow(AT_ONCE)))

    async def asked() -> bool:
        return len(web.asked) == OF_ONE_REQUEST

    await until(asked, within=TIMEOUT.total_seconds())
    other = await http.post("/", json={"url": "https://images.example.org/image"})
    assert other.text == "1 False"
    assert len(web.asked) == OF_ONE_REQUEST + 1
    answer = await asking
    took = asyncio.get_running_loop().time() - began
    assert answer.status_code == 422
    assert "did not arrive within 1 s" in answer.json()["error"]["message"]
    assert took < 2 * TIMEOUT.total_seconds()


async def test_a_client_of_whom_nothing_is_fetched_is_not_watched(reading: Reading) -> None:
    received: list[Message] = []

    async def receive() -> Message:
        body = b'[{"data": "QUJD"}, {"data": "QUJD"}]'
        end: Message = {"type": "http.disconnect"}
        whole: Message = {"type": "http.request", "body": body, "more_body": False}
        received.append(end if received else whole)
        return received[-1]

    async def send(message: Message) -> None:
        sent.append(message)

    sent: list[Message] = []
    scope: Scope = {
        "type": "http",
        "http_version": "2",
        "method": "POST",
        "path": "/",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    await reading.app(scope, receive, send)
    assert sent[-1]["body"] == b"2 True"
    assert len(received) == 1


async def test_nothing_more_is_fetched_for_a_client_that_has_gone(
    http: httpx.AsyncClient, web: Web, reading: Reading
) -> None:
    asking = asyncio.create_task(http.post("/", json=slow(2)))

    async def fetching() -> bool:
        return bool(web.asked)

    await until(fetching)
    asking.cancel()

    async def gone() -> bool:
        return reading.gone == 1

    await until(gone, within=TIMEOUT.total_seconds() / 2)
