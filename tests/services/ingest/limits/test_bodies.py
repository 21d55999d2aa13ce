"""How much clients may send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.polling import until
from tests.services.ingest.limits.served import MEBIBYTE, Served, code, exchange


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
