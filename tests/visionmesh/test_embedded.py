"""The embedded servers are real, bounded, restartable, and end with their parent."""

from __future__ import annotations

import asyncio
import importlib.metadata
import signal
import socket
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import nats
import psutil
import pytest
import redis.asyncio

from visionmesh.embedded import NatsServer, Server, ValkeyServer, require_free
from visionmesh.errors import ConfigurationError


def nats_server(folder: Path, port: int = 0) -> Server:
    return NatsServer(store=folder, port=port)


def valkey_server(folder: Path, port: int = 0) -> Server:
    return ValkeyServer(directory=folder, port=port)


Factory = Callable[..., Server]
both = pytest.mark.parametrize("factory", [nats_server, valkey_server])


async def test_nats_stores_what_it_takes_and_refuses_the_rest_at_once(tmp_path: Path) -> None:
    async with NatsServer(store=tmp_path) as server:
        connection = await nats.connect(server.url)
        jetstream = connection.jetstream()
        await jetstream.add_stream(name="S", subjects=["s"])
        largest = connection.max_payload
        assert largest > 31 << 20
        acknowledged = await jetstream.publish("s", bytes(largest))
        assert acknowledged.seq == 1
        with pytest.raises(nats.errors.MaxPayloadError):
            await jetstream.publish("s", bytes(largest + 1))
        await connection.close()


@pytest.fixture
def loopback_6() -> str:
    """The loopback address of IPv6, where this host has one."""
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError as error:
            pytest.skip(f"no IPv6: {error.strerror}")
    return "::1"


async def test_nats_and_its_gateway_listen_by_ipv6(tmp_path: Path, loopback_6: str) -> None:
    async with NatsServer(
        store=tmp_path, host=loopback_6, mqtt_host=loopback_6, mqtt_port=0
    ) as server:
        connection = await nats.connect(server.url)
        await connection.close()
        with socket.create_connection((loopback_6, server.mqtt_port or 0)):
            pass
        with pytest.raises(ConfigurationError, match=rf"\[::1\]:{server.mqtt_port}: .*in use"):
            require_free("MQTT", loopback_6, server.mqtt_port or 0)


async def test_nats_keeps_what_was_stored_over_a_restart_on_the_same_port(tmp_path: Path) -> None:
    server = NatsServer(store=tmp_path)
    await server.start()
    connection = await nats.connect(server.url)
    await connection.jetstream().add_stream(name="S", subjects=["s"])
    await connection.jetstream().publish("s", b"kept")
    await connection.close()
    before = server.url
    await server.stop()
    async with server:
        assert server.url == before
        connection = await nats.connect(server.url)
        message = await connection.jetstream().get_msg("S", seq=1)
        assert message.data == b"kept"
        await connection.close()


async def test_valkey_forgets_the_least_recently_used_when_it_is_full(tmp_path: Path) -> None:
    async with (
        ValkeyServer(directory=tmp_path, max_memory_bytes=4 << 20) as server,
        redis.asyncio.from_url(server.url) as client,
    ):
        for number in range(100):
            await client.set(f"key{number}", bytes(100_000))
        # Which ones go is drawn among a few of the oldest.
        assert await client.dbsize() < 50
        assert await client.exists("key99") == 1
        assert (await client.info("memory"))["used_memory"] < 5 << 20
        assert (await client.config_get("maxmemory-policy"))["maxmemory-policy"] == "allkeys-lru"


@both
async def test_nothing_runs_after_stop(factory: Factory, tmp_path: Path) -> None:
    server = factory(tmp_path)
    await server.start()
    pid = server.pid
    assert pid is not None
    assert psutil.pid_exists(pid)
    await server.stop()
    assert server.pid is None
    assert not psutil.pid_exists(pid)


@both
async def test_a_taken_port_is_named(factory: Factory, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"127.0.0.1:{port}.*in use"):
            await factory(tmp_path, port).start()


@both
async def test_a_missing_binary_names_the_extra(
    factory: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "files", lambda _: [])
    with pytest.raises(ConfigurationError, match=r"visionmesh\[embedded\]"):
        await factory(tmp_path).start()


async def test_a_server_that_ends_at_once_tells_what_it_said(tmp_path: Path) -> None:
    (tmp_path / "jetstream").write_text("where the server wants a folder")
    with pytest.raises(ConfigurationError, match=r"nats server ended at once(?s:.)*storage dir"):
        await NatsServer(store=tmp_path).start()


_PARENT = """
import asyncio, sys
from pathlib import Path
from visionmesh.embedded import NatsServer, ValkeyServer
async def main():
    folder = Path(sys.argv[1])
    async with NatsServer(store=folder) as n, ValkeyServer(directory=folder) as v:
        print(n.pid, v.pid, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_the_servers_die_with_a_killed_parent(tmp_path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _PARENT, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    children = [psutil.Process(int(pid)) for pid in (await parent.stdout.readline()).split()]
    parent.send_signal(signal.SIGKILL)
    await parent.wait()
    _, alive = await asyncio.to_thread(
        psutil.wait_procs, children, timeout=timedelta(seconds=10).total_seconds()
    )
    assert not alive
