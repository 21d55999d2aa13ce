"""What clients may not do to the access layer, over real connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import httpx
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, StreamEnded
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from services.ingest.forms import refusal
from services.ingest.limits import Limits, load_of
from services.ingest.presence import while_present
from tests.polling import until
from visionmesh.errors import VisionmeshError
from visionmesh.http import HttpServer
from visionmesh.settings import IngestSettings

MEBIBYTE = 1 << 20
SETTINGS = IngestSettings(max_request_bytes=MEBIBYTE, max_bytes_in_hand=2 * MEBIBYTE)
HASTY = SETTINGS.model_copy(update={"body_timeout": timedelta(milliseconds=300)})


async def refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, VisionmeshError)
    return refusal(error)


class Served:
    """An application behind limits, and what it saw."""

    def __init__(self, settings: IngestSettings) -> None:
        self.entered = 0
        self.cancelled = 0
        self.released = asyncio.Event()
        routes = [
            Route("/v1/size", self.size, methods=["POST"]),
            Route("/v1/ignore", self.ignore, methods=["POST"]),
            Route("/v1/wait", self.wait, methods=["POST"]),
            Route("/v1/fetch", self.fetch, methods=["POST"]),
            Route("/healthz", self.ignore),
        ]
        app = Starlette(routes=routes, exception_handlers={VisionmeshError: refuse})
        self.limits = Limits(app=app, settings=settings, streamed=("/v1/size/streamed",))
        app.add_route("/v1/size/streamed", self.count, methods=["POST"])
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def size(self, request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    async def count(self, request: Request) -> Response:
        size = 0
        async for piece in request.stream():
            size += len(piece)
        return PlainTextResponse(str(size))

    async def ignore(self, request: Request) -> Response:
        return PlainTextResponse("ignored")

    async def fetch(self, request: Request) -> Response:
        load_of(request.scope).add(3 * MEBIBYTE)
        return PlainTextResponse("fetched")

    async def wait(self, request: Request) -> Response:
        size = len(await request.body())
        self.entered += 1

        async def work() -> None:
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise

        await while_present(request.receive, work())
        return PlainTextResponse(str(size))


@asynccontextmanager
async def serving(settings: IngestSettings) -> AsyncIterator[Served]:
    served = Served(settings)
    server = HttpServer(app=served.limits, host="127.0.0.1", port=0)
    served.port = await server.start()
    try:
        yield served
    finally:
        await server.stop()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(SETTINGS) as found:
        yield found


@pytest.fixture
async def hasty() -> AsyncIterator[Served]:
    async with serving(HASTY) as found:
        yield found


@pytest.fixture(params=["HTTP/1.1", "HTTP/2"])
async def client(
    served: Served, request: pytest.FixtureRequest
) -> AsyncIterator[httpx.AsyncClient]:
    second = request.param == "HTTP/2"
    async with httpx.AsyncClient(
        base_url=served.url, http1=not second, http2=second, timeout=10
    ) as found:
        yield found


def code(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["code"])


async def exchange(port: int, sent: bytes, *, eof: bool = False) -> bytes:
    """Return all that comes until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    try:
        await writer.drain()
        if eof:
            writer.write_eof()
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


async def test_a_body_of_the_largest_size_arrives(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/size", content=bytes(MEBIBYTE))
    assert answer.text == str(MEBIBYTE)


async def in_pieces(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield bytes(MEBIBYTE // 8)


async def test_a_larger_body_is_refused_declared_or_not(
    served: Served, client: httpx.AsyncClient
) -> None:
    for content in (bytes(MEBIBYTE + 1), in_pieces(9)):
        answer = await client.post("/v1/size", content=content)
        assert (answer.status_code, code(answer)) == (413, "payload_too_large")
    assert served.limits.bytes_in_hand == 0
    assert (await client.post("/v1/size", content=b"abc")).text == "3"


async def test_a_body_that_no_one_reads_is_read_away(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/ignore", content=bytes(3 * MEBIBYTE))
    assert answer.text == "ignored"


async def test_what_goes_to_a_disk_may_be_of_any_size(
    served: Served, client: httpx.AsyncClient
) -> None:
    answer = await client.post("/v1/size/streamed", content=in_pieces(64))
    assert answer.text == str(8 * MEBIBYTE)


async def test_a_refused_body_is_not_asked_for(served: Served) -> None:
    head = (
        b"POST /v1/size HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2000000\r\n"
    )
    answer = await exchange(served.port, head + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()


async def test_a_body_that_comes_too_slowly_is_refused(hasty: Served) -> None:
    head = b"POST /v1/size HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nab"
    answer = await exchange(hasty.port, head)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"request_timeout"' in answer
    assert hasty.limits.bytes_in_hand == 0


async def test_who_trickles_is_refused_after_the_same_time(hasty: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", hasty.port)
    writer.write(b"POST /v1/size HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
    reading = asyncio.create_task(reader.read(12))
    async with asyncio.timeout(5):
        while not reading.done():
            writer.write(b"x")
            await asyncio.wait((reading,), timeout=0.02)
    assert await reading == b"HTTP/1.1 408"
    writer.close()


async def test_many_slow_clients_do_not_hold_up_the_others(
    served: Served, client: httpx.AsyncClient
) -> None:
    slow = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(100)]
    for number, (_, writer) in enumerate(slow):
        head = b"POST /v1/size HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"
        writer.write(head[: number + 1] if number % 2 else head)
    assert (await client.post("/v1/size", content=b"abc")).text == "3"
    for _, writer in slow:
        writer.close()


@pytest.mark.parametrize("client", ["HTTP/1.1"], indirect=True)
async def test_no_more_bytes_are_in_hand_than_may_be(
    served: Served, client: httpx.AsyncClient
) -> None:
    # httpx stalls where several bodies wait for the window of one HTTP/2 connection.
    waiting = [asyncio.create_task(client.post("/v1/wait", content=bytes(900_000))) for _ in "ab"]

    async def entered() -> bool:
        return served.entered == len(waiting)

    await until(entered)
    assert served.limits.bytes_in_hand == 1_800_000
    answer = await client.post("/v1/wait", content=bytes(900_000))
    assert (answer.status_code, code(answer)) == (503, "mesh_full")
    assert int(answer.headers["retry-after"]) >= 1
    served.released.set()
    assert {(await one).text for one in waiting} == {"900000"}

    async def released() -> bool:
        return served.limits.bytes_in_hand == 0

    await until(released)


async def test_what_is_fetched_for_a_request_counts_as_well(
    served: Served, client: httpx.AsyncClient
) -> None:
    answer = await client.post("/v1/fetch", content=b"x")
    assert (answer.status_code, code(answer)) == (413, "payload_too_large")


async def test_who_hangs_up_has_the_work_cancelled(served: Served) -> None:
    head = b"POST /v1/wait HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"
    _, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(head + b"abc")

    async def entered() -> bool:
        return served.entered == 1

    await until(entered)
    writer.close()

    async def cancelled() -> bool:
        return served.cancelled == 1 and served.limits.bytes_in_hand == 0

    await until(cancelled)


async def test_one_stream_of_a_connection_is_cancelled_without_the_others(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    connection = H2Connection(H2Configuration(client_side=True))
    connection.initiate_connection()
    head = [(":method", "POST"), (":path", "/v1/wait"), (":scheme", "http"), (":authority", "a")]
    for stream in (1, 3):
        connection.send_headers(stream, head)
        connection.send_data(stream, b"abc", end_stream=True)
    writer.write(connection.data_to_send())

    async def entered() -> bool:
        return served.entered == 2

    await until(entered)
    connection.reset_stream(1, ErrorCodes.CANCEL)
    writer.write(connection.data_to_send())

    async def cancelled() -> bool:
        return served.cancelled == 1

    await until(cancelled)
    served.released.set()
    received: list[Event] = []
    async with asyncio.timeout(5):
        while not any(isinstance(event, StreamEnded) for event in received):
            received += connection.receive_data(await reader.read(65536))
    bodies = {e.stream_id: e.data for e in received if isinstance(e, DataReceived)}
    assert bodies == {3: b"3"}
    writer.close()


async def test_half_a_request_and_half_a_connection_leave_nothing(served: Served) -> None:
    head = b"POST /v1/size HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc"
    answer = await exchange(served.port, head, eof=True)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"keep it open" in answer
    assert served.limits.bytes_in_hand == 0


async def test_a_worker_that_ends_takes_nothing_more(
    served: Served, client: httpx.AsyncClient
) -> None:
    served.limits.drain()
    answer = await client.post("/v1/size", content=b"abc")
    assert (answer.status_code, code(answer)) == (503, "mesh_full")
    assert "retry-after" in answer.headers
    assert (await client.get("/healthz")).status_code == 200


async def test_one_connection_carries_many_requests_at_once(served: Served) -> None:
    count = 100
    async with httpx.AsyncClient(base_url=served.url, http1=False, http2=True) as client:
        tasks = [
            asyncio.create_task(client.post("/v1/wait", content=b"x" * n)) for n in range(count)
        ]

        async def entered() -> bool:
            return served.entered == count

        await until(entered)
        served.released.set()
        answers = [await task for task in tasks]
        assert [answer.text for answer in answers] == [str(n) for n in range(count)]
        assert {answer.http_version for answer in answers} == {"HTTP/2"}
