import asyncio
import re
import socket
import ssl
import subprocess
import threading
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from visionmesh.errors import Code, ConfigurationError
from visionmesh.http import App, HttpServer, Message, Receive, Scope, Send, Tls, status_app
from visionmesh.telemetry.metrics import Metrics


def never_ready() -> str | None:
    return "no model is loaded yet"


def make_status(ready: Callable[[], str | None] = lambda: None) -> App:
    return status_app(metrics=Metrics(stage="infer", registry=CollectorRegistry()), ready=ready)


@asynccontextmanager
async def serving(app: App, *, grace: timedelta = timedelta(seconds=5)) -> AsyncIterator[str]:
    server = HttpServer(app=app, host="127.0.0.1", port=0, grace=grace)
    port = await server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await server.stop()


async def reply(send: Send, body: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def once_released(released: asyncio.Event, entered: asyncio.Event) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        entered.set()
        await released.wait()
        await reply(send, b"done")

    return app


async def test_a_ready_service_says_so_and_shows_its_metrics() -> None:
    async with serving(make_status()) as url, httpx.AsyncClient(base_url=url) as client:
        health, ready, metrics = [
            await client.get(path) for path in ("/healthz", "/readyz", "/metrics")
        ]
    assert (health.status_code, health.text) == (200, "ok\n")
    assert (ready.status_code, ready.text) == (200, "ok\n")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'visionmesh_in_flight{stage="infer"} 0.0' in metrics.text


async def test_a_service_that_is_not_ready_is_alive_and_says_why() -> None:
    async with serving(make_status(never_ready)) as url, httpx.AsyncClient(base_url=url) as client:
        assert (await client.get("/healthz")).status_code == 200
        response = await client.get("/readyz")
    assert (response.status_code, response.text) == (503, "no model is loaded yet\n")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/metrics/", 404),
        ("POST", "/metrics", 405),
        ("HEAD", "/readyz", 200),
    ],
)
async def test_anything_else_is_refused(method: str, path: str, status: int) -> None:
    async with serving(make_status()) as url, httpx.AsyncClient(base_url=url) as client:
        response = await client.request(method, path)
    assert response.status_code == status
    assert response.headers.get("allow") == ("GET, HEAD" if status == 405 else None)
    assert (response.text == "") == (method == "HEAD")


async def test_it_can_stand_behind_the_routes_of_an_api() -> None:
    api = FastAPI()

    @api.get("/v1/models")
    async def models() -> list[str]:
        return ["faces"]

    api.router.default = make_status(never_ready)
    async with serving(api) as url, httpx.AsyncClient(base_url=url) as client:
        assert (await client.get("/v1/models")).json() == ["faces"]
        assert (await client.put("/v1/models")).status_code == 405
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/nowhere")).status_code == 404


async def test_a_body_arrives_whole() -> None:
    async def length(_: Scope, receive: Receive, send: Send) -> None:
        total, more = 0, True
        while more:
            message: Message = await receive()
            total += len(message["body"])
            more = message["more_body"]
        await reply(send, str(total).encode())

    async with serving(length) as url, httpx.AsyncClient() as client:
        response = await client.post(url, content=b"x" * 5_000_000)
    assert response.text == "5000000"


async def test_http_2_is_spoken_on_the_same_port() -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    async with serving(make_status()) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
        writer.write(preface + settings)
        frame = await asyncio.wait_for(reader.readexactly(9), 5)
        writer.close()
        await writer.wait_closed()
    assert frame[3] == 4  # SETTINGS, the server's first frame (RFC 9113, 3.4)


async def test_a_taken_port_is_refused_with_a_sentence_that_names_it() -> None:
    async with serving(make_status()) as url:
        port = httpx.URL(url).port
        assert port is not None
        second = HttpServer(app=make_status(), host="127.0.0.1", port=port)
        with pytest.raises(ConfigurationError, match=re.escape(f"127.0.0.1 port {port}")) as caught:
            await second.start()
        await second.stop()
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{url}/healthz")).status_code == 200
    assert caught.value.code is Code.SETTINGS_INVALID


async def test_an_address_that_is_not_ours_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"192\.0\.2\.1"):
        await HttpServer(app=make_status(), host="192.0.2.1", port=0).start()


async def test_a_port_is_free_again_after_the_stop_and_no_thread_is_left() -> None:
    port = 0
    threads = threading.active_count()
    for _ in range(3):
        server = HttpServer(app=make_status(), host="127.0.0.1", port=port)
        port = await server.start()
        await server.stop()
    assert threading.active_count() == threads
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 1):
        pass


async def test_a_request_in_hand_ends_before_the_server_does() -> None:
    released, entered = asyncio.Event(), asyncio.Event()
    server = HttpServer(app=once_released(released, entered), host="127.0.0.1", port=0)
    port = await server.start()
    async with httpx.AsyncClient() as client:
        request = asyncio.create_task(client.get(f"http://127.0.0.1:{port}/"))
        await entered.wait()
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0)
        assert not stopping.done()
        released.set()
        await stopping
        assert (await request).text == "done"


async def test_a_request_that_does_not_end_is_cancelled_after_the_grace() -> None:
    cancelled, entered = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with asyncio.timeout(10), httpx.AsyncClient() as client:
        async with serving(app, grace=timedelta(milliseconds=50)) as url:
            request: Awaitable[httpx.Response] = asyncio.create_task(client.get(url))
            await entered.wait()
        assert cancelled.is_set()
        with pytest.raises(httpx.HTTPError):
            (await request).raise_for_status()


async def test_connections_that_ask_nothing_do_not_delay_the_stop() -> None:
    async with asyncio.timeout(4):
        async with serving(make_status()) as url:
            port = httpx.URL(url).port
            silent, asked = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            asked[1].write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            await asked[0].readuntil(b"ok\n")
        for _, writer in (silent, asked):
            writer.close()
            await writer.wait_closed()


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    folder = tmp_path_factory.mktemp("tls")
    files = Tls(certificate=folder / "cert.pem", key=folder / "key.pem")
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1"
    about = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    into = ["-out", str(files.certificate), "-keyout", str(files.key)]
    subprocess.run([*make.split(), *about, *into], check=True, capture_output=True)
    return files


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("second", [False, True])
async def test_tls_is_spoken_with_the_certificate_of_a_file(
    tls: Tls, newest: ssl.TLSVersion, second: bool
) -> None:
    trusting = ssl.create_default_context(cafile=str(tls.certificate))
    trusting.maximum_version = newest
    server = HttpServer(app=make_status(), host="127.0.0.1", port=0, tls=tls)
    port = await server.start()
    async with httpx.AsyncClient(verify=trusting, http2=second) as client:
        answer = await client.get(f"https://127.0.0.1:{port}/healthz")
    await server.stop()
    assert (answer.text, answer.http_version) == ("ok\n", "HTTP/2" if second else "HTTP/1.1")


async def test_older_tls_and_none_are_refused(tls: Tls) -> None:
    server = HttpServer(app=make_status(), host="127.0.0.1", port=0, tls=tls)
    port = await server.start()
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that is what is tried
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    async with httpx.AsyncClient(verify=old) as client:
        for scheme in ("https", "http"):
            with pytest.raises(httpx.TransportError):
                await client.get(f"{scheme}://127.0.0.1:{port}/healthz")
    await server.stop()


@pytest.fixture
def other_key(tmp_path: Path) -> Path:
    key = tmp_path / "key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(key)], check=True)
    return key


async def test_a_certificate_without_its_key_is_refused_with_a_sentence(
    tls: Tls, tmp_path: Path, other_key: Path
) -> None:
    for key in (other_key, tmp_path / "nowhere.pem", tls.certificate):
        server = HttpServer(
            app=make_status(), host="127.0.0.1", port=0, tls=Tls(tls.certificate, key)
        )
        with pytest.raises(ConfigurationError, match=re.escape(str(key))):
            await server.start()


async def test_a_head_that_is_too_large_is_refused() -> None:
    async with (
        serving(make_status()) as url,
        httpx.AsyncClient(http1=False, http2=True) as client,
    ):
        answer = await client.get(f"{url}/healthz", headers={"x": "a" * 100_000})
        assert answer.status_code == 431
        assert (await client.get(f"{url}/healthz")).status_code == 200
