"""How slowly clients may send, and what becomes of those that go away."""

from __future__ import annotations

import asyncio

import httpx
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, StreamEnded

from tests.polling import until
from tests.services.ingest.limits.served import Served, code, exchange


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
