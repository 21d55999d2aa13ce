"""Which protocol answers, and what becomes of work for clients that go away."""

from __future__ import annotations

import asyncio

import pytest

from services.ingest.front import Front
from services.ingest.presence import Gone, while_present
from visionmesh.http import Message, Receive, Scope, Send


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
