"""What is said of servers whose memory is not bounded, by real ones."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from visionmesh.cache import Cache
from visionmesh.embedded import ValkeyServer

BOUND, POLICY = "maxmemory to 256mb or so", "maxmemory-policy to allkeys-lru"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ValkeyServer]:
    async with ValkeyServer(directory=tmp_path) as server:
        yield server


async def inspect(url: str) -> None:
    cache = Cache(url=url)
    await cache.inspect()
    await cache.close()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "visionmesh.cache.memory"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"maxmemory": 0, "maxmemory-policy": "noeviction"}, f"{BOUND} and its {POLICY}"),
        ({"maxmemory": 0}, BOUND),
        ({"maxmemory-policy": "noeviction"}, POLICY),
    ],
)
async def test_a_server_that_makes_no_room_is_told_with_what_to_set(
    server: ValkeyServer,
    settings: dict[str, str | int],
    told: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Redis.from_url(server.url) as plain:
        for name, value in settings.items():
            await plain.config_set(name, value)
    await inspect(server.url)
    [message] = said(caplog)
    assert message.startswith("redis_url: ")
    assert message.endswith(f"set its {told}.")


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_nothing_is_said_of_a_server_that_forgets(
    server: ValkeyServer, policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Redis.from_url(server.url) as plain:
        await plain.config_set("maxmemory-policy", policy)
    await inspect(server.url)
    assert said(caplog) == []


async def test_a_server_that_keeps_its_settings_to_itself_is_left_alone(
    server: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with Redis.from_url(server.url) as plain:
        await plain.config_set("maxmemory", 0)
        rights = ["+@all", "-info"]
        await plain.acl_setuser(
            "tenant", enabled=True, passwords="+secret", keys="*", commands=rights
        )
    await inspect(server.url.replace("redis://", "redis://tenant:secret@"))
    assert said(caplog) == []


@pytest.mark.parametrize("ends", [signal.SIGSTOP, signal.SIGKILL])
async def test_a_server_that_does_not_answer_is_not_waited_for(
    server: ValkeyServer, ends: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    pid = server.pid
    assert pid is not None
    os.kill(pid, ends)
    try:
        await inspect(server.url)
    finally:
        if ends is signal.SIGSTOP:
            os.kill(pid, signal.SIGCONT)
    assert said(caplog) == []


async def test_without_a_server_there_is_nothing_to_say(caplog: pytest.LogCaptureFixture) -> None:
    cache = Cache(url=None)
    await cache.inspect()
    assert said(caplog) == []
