"""Which protocol answers, and what becomes of work for clients that go away."""

from __future__ import annotations

import asyncio

import pytest

from services.ingest.door import Caller, KeyHolder
from services.ingest.front import Front, OwnPages
from services.ingest.presence import Gone, while_present
from visionmesh.http import Message, Receive, Scope, Send
from visionmesh.keys import issue


@pytest.mark.parametrize(
    ("path", "app"),
    [
        ("/v1/models", "own"),
        ("/v1", "own"),
        ("/v10/models", "rest"),
        ("/", "root"),
        ("", "root"),
        ("/healthz", "rest"),
    ],
)
async def test_a_path_goes_to_the_protocol_of_its_first_segment(path: str, app: str) -> None:
    called: list[str] = []

    def named(name: str) -> object:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            called.append(name)

        return app

    protocols = {"/v1": named("own"), "/": named("root")}
    front = Front(protocols=protocols, rest=named("rest"))  # type: ignore[arg-type]

    async def nothing(*_: object) -> Message:
        return {}

    await front({"type": "http", "path": path}, nothing, nothing)  # type: ignore[arg-type]
    assert called == [app]


async def test_work_is_cancelled_when_its_client_hangs_up() -> None:
    hung_up, cancelled = asyncio.Event(), asyncio.Event()

    async def receive() -> Message:
        await hung_up.wait()
        return {"type": "http.disconnect"}

    async def work() -> None:
        hung_up.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(Gone):
        await while_present(receive, work())
    assert cancelled.is_set()


async def test_work_for_a_client_that_stays_is_done() -> None:
    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def work() -> int:
        return 3

    assert await while_present(receive, work()) == 3


async def ask(headers: dict[str, str], *, caller: Caller | None = None) -> int:
    """Return the status that a request with these ``headers`` gets behind `OwnPages`."""
    statuses: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Message) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    async def receive() -> Message:
        raise AssertionError

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope: Scope = {"type": "http", "path": "/v1/models", "method": "GET", "headers": raw}
    if caller is not None:
        scope["visionmesh.caller"] = caller
    await OwnPages(app=app, host="mesh.example.org")(scope, receive, send)
    return statuses[0]


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:8000", "", 200),
        ("localhost:8000", "", 200),
        ("[::1]:8000", "", 200),
        ("192.168.1.7:8000", "", 200),
        ("ingest:8000", "", 200),
        ("mesh.example.org", "", 200),
        ("rebound.example.com:8000", "", 403),
        ("127.0.0.1.example.com", "", 403),
        ("[::", "", 403),
        ("127.0.0.1:8000", "http://127.0.0.1:8000", 200),
        ("127.0.0.1:8000", "http://localhost:3000", 200),
        ("127.0.0.1:8000", "https://app.localhost", 200),
        ("127.0.0.1:8000", "https://example.com", 403),
        ("127.0.0.1:8000", "https://notlocalhost", 403),
        ("127.0.0.1:8000", "http://192.168.1.7", 403),
        ("127.0.0.1:8000", "null", 403),
    ],
)
async def test_pages_of_strangers_may_not_call_without_a_key(
    host: str, origin: str, status: int
) -> None:
    headers = {"host": host} | ({"origin": origin} if origin else {})
    assert await ask(headers) == status


async def test_pages_with_a_key_may_call() -> None:
    _, record = issue(name="page")
    holder = KeyHolder(record, keys=None, quota=None)  # type: ignore[arg-type] # never asked
    assert await ask({"host": "a.org", "origin": "https://b.org"}, caller=holder) == 200
