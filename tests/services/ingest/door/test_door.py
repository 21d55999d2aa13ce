"""Who is let in, and what they may do there: over real HTTP, with keys in a real NATS server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from services.ingest.door import Caller, Door, Right, caller_of
from services.ingest.forms import refusal
from services.ingest.limits import Limits
from tests.polling import until
from tests.services.ingest.limits.served import MEBIBYTE, exchange
from visionmesh.bus import Connection
from visionmesh.errors import Code, Fatal, Refused
from visionmesh.http import HttpServer
from visionmesh.keys import KeyRecord, issue
from visionmesh.keys.quota import Quota
from visionmesh.keys.ring import KeyRing
from visionmesh.keys.store import KeyStore
from visionmesh.settings import IngestSettings

Policy = Literal["auto", "required", "off"]


def fail(error: Fatal) -> None:
    raise error


@dataclass
class House:
    """A door, and the server behind which it stands."""

    door: Door
    limits: Limits
    ring: KeyRing
    store: KeyStore
    http: httpx.AsyncClient

    async def key(
        self,
        *,
        rights: Sequence[Right] = (Right.INFER,),
        models: Sequence[str] = ("*",),
        rate: str | None = None,
        expires: datetime | None = None,
    ) -> tuple[str, KeyRecord]:
        """Return a new key that the door has heard of."""
        key, record = issue(name="test", rights=rights, models=models, rate=rate, expires=expires)
        await self.store.add(record)

        async def known() -> bool:
            return self.ring.find(key) is not None

        await until(known)
        return key, record


Build = Callable[[str, Policy], Awaitable[House]]


async def work(request: Request) -> Response:
    caller = caller_of(request.scope)
    try:
        caller.require(Right.INFER, request.path_params["model"])
        await caller.spend(int(request.query_params.get("images", "1")))
    except Refused as error:
        return refusal(error)
    return PlainTextResponse(type(caller).__name__)


async def fine(_: Request) -> Response:
    return PlainTextResponse("fine")


APP = Starlette(
    routes=[
        Route("/v1/models/{model}/infer", work, methods=["POST"]),
        *(Route(path, fine) for path in ("/", "/healthz", "/metrics", "/v2", "/api/tags")),
    ]
)
INFER = "/v1/models/cats/infer"
SETTINGS = IngestSettings(max_request_bytes=4 * MEBIBYTE, max_bytes_in_hand=MEBIBYTE)


@pytest.fixture
async def build(connection: Connection) -> AsyncIterator[Build]:
    opened: list[tuple[House, HttpServer]] = []

    async def build(host: str, policy: Policy) -> House:
        store = KeyStore(connection.client)
        ring = KeyRing(store, fail=fail)
        door = Door(keys=ring, quota=Quota(url=None), host=host, policy=policy)
        await door.start()
        limits = Limits(app=door.guard(APP), settings=SETTINGS)
        server = HttpServer(app=limits, host="127.0.0.1", port=0)
        port = await server.start()
        http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}")
        house = House(door, limits, ring, store, http)
        opened.append((house, server))
        return house

    yield build
    for house, server in opened:
        await house.http.aclose()
        await server.stop()
        await house.door.stop()


@pytest.fixture
async def house(build: Build) -> House:
    return await build("127.0.0.1", "required")


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    ("host", "policy", "status"),
    [
        ("127.0.0.1", "auto", 200),
        ("::1", "auto", 200),
        ("localhost", "auto", 200),
        ("0.0.0.0", "auto", 401),
        ("10.0.0.5", "auto", 401),
        ("mesh.example.org", "auto", 401),
        ("127.0.0.1", "required", 401),
        ("0.0.0.0", "off", 200),
    ],
)
async def test_a_key_is_needed_where_others_can_come(
    build: Build, host: str, policy: Policy, status: int
) -> None:
    house = await build(host, policy)
    assert (await house.http.post(INFER)).status_code == status


async def test_who_comes_from_elsewhere_needs_a_key_even_on_loopback(build: Build) -> None:
    house = await build("127.0.0.1", "auto")
    assert type(house.door.caller(None, peer_is_local=True)) is Caller
    with pytest.raises(Refused) as refused:
        house.door.caller(None, peer_is_local=False)
    assert refused.value.code is Code.UNAUTHORIZED


async def test_a_key_is_taken_in_three_places(house: House) -> None:
    key, _ = await house.key()
    for headers in (bearer(key), {"Authorization": f"bearer  {key}"}, {"X-API-Key": key}):
        answer = await house.http.post(INFER, headers=headers)
        assert (answer.status_code, answer.text) == (200, "KeyHolder"), headers
    assert house.door.caller(key, peer_is_local=False)


@pytest.mark.parametrize(
    "credentials",
    ["", "Bearer", "Basic dm1rOng=", "Bearer ollama", f"vmk_00000000_{'x' * 43}", "é"],
)
async def test_what_is_no_key_is_turned_away_and_told_how_to_get_one(
    house: House, credentials: str
) -> None:
    answer = await house.http.post(INFER, headers=[(b"Authorization", credentials.encode())])
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["code"] == Code.UNAUTHORIZED
    assert "visionmesh keys add" in answer.json()["error"]["message"]


async def test_a_body_without_a_key_is_read_away_and_takes_no_room(house: House) -> None:
    held: list[int] = []

    async def body() -> AsyncIterator[bytes]:
        for _ in range(24):
            yield bytes(MEBIBYTE // 8)
            held.append(house.limits.bytes_in_hand)

    answer = await house.http.post(INFER, content=body())
    assert answer.status_code == 401
    assert held == [0] * 24


async def test_a_body_without_a_key_is_not_asked_for(house: House) -> None:
    head = f"POST {INFER} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"
    answer = await exchange(house.http.base_url.port or 0, head.encode())
    assert answer.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("path", ["/v2", "/api/tags"])
async def test_other_protocols_have_their_own_form(house: House, path: str) -> None:
    answer = await house.http.get(path)
    assert answer.status_code == 401
    assert isinstance(answer.json()["error"], str)


async def test_no_key_is_needed_to_ask_whether_it_lives(house: House) -> None:
    assert (await house.http.get("/healthz")).status_code == 200
    assert (await house.http.get("/")).status_code == 200


async def test_metrics_are_for_readers(house: House) -> None:
    key, _ = await house.key(rights=[Right.INFER])
    assert (await house.http.get("/metrics", headers=bearer(key))).status_code == 403
    key, _ = await house.key(rights=[Right.READ])
    assert (await house.http.get("/metrics", headers=bearer(key))).status_code == 200


async def test_a_key_is_good_for_its_models_and_rights_only(house: House) -> None:
    key, _ = await house.key(models=["cat*"])
    assert (await house.http.post(INFER, headers=bearer(key))).status_code == 200
    other = await house.http.post("/v1/models/dogs/infer", headers=bearer(key))
    assert other.status_code == 403
    assert "not for the model 'dogs'" in other.json()["error"]["message"]
    key, _ = await house.key(rights=[Right.READ])
    answer = await house.http.post(INFER, headers=bearer(key))
    assert answer.status_code == 403
    assert "lacks the right 'infer'; it has read" in answer.json()["error"]["message"]


async def test_beyond_the_rate_it_is_told_when_to_come_again(house: House) -> None:
    key, _ = await house.key(rate="3/h")
    first = await house.http.post(INFER, headers=bearer(key), params={"images": 2})
    assert first.status_code == 200
    second = await house.http.post(INFER, headers=bearer(key), params={"images": 2})
    assert second.status_code == 429
    assert second.json()["error"]["code"] == Code.RATE_LIMITED
    assert 1 < int(second.headers["retry-after"]) <= 7200
    never = await house.http.post(INFER, headers=bearer(key), params={"images": 4})
    assert never.status_code == 400


async def test_an_expired_key_is_refused(house: House) -> None:
    key, _ = await house.key(expires=datetime.now(UTC) - timedelta(seconds=1))
    answer = await house.http.post(INFER, headers=bearer(key))
    assert answer.status_code == 401
    assert "expired" in answer.json()["error"]["message"]


async def test_a_revoked_key_is_refused_at_once_and_to_those_who_are_in(house: House) -> None:
    key, record = await house.key()
    caller = house.door.caller(key, peer_is_local=False)
    caller.require(Right.INFER, "cats")
    await house.store.revoke(record.id)

    async def refused() -> bool:
        return (await house.http.post(INFER, headers=bearer(key))).status_code == 401

    await until(refused)
    with pytest.raises(Refused, match="was revoked"):
        caller.require(Right.INFER, "cats")
