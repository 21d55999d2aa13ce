"""The cache against a real Valkey: healthy, hanging, killed and back again."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from redis.asyncio import Redis

from visionmesh.cache import Cache, Found, Outcome
from visionmesh.embedded import ValkeyServer
from visionmesh.errors import ConfigurationError

TIMEOUT = timedelta(milliseconds=50)
PATIENT = timedelta(seconds=5)
"""For tests that want an answer and not to know how fast: the machine may be busy."""


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex


@pytest.fixture
async def cache(valkey_url: str) -> AsyncIterator[Cache]:
    cache = Cache(url=valkey_url, timeout=PATIENT)
    yield cache
    await cache.close()


@pytest.fixture
async def plain(valkey_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(valkey_url) as plain:
        yield plain


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ValkeyServer]:
    """A server of the test's own, to be ill-treated."""
    server = ValkeyServer(directory=tmp_path)
    await server.start()
    yield server
    if server.pid is not None:
        os.kill(server.pid, signal.SIGCONT)
    await server.stop()


def signal_to(server: ValkeyServer, number: signal.Signals) -> None:
    assert server.pid is not None
    os.kill(server.pid, number)


async def until(condition: Callable[[], bool], attempt: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await attempt()
            await asyncio.sleep(0.01)


async def test_what_was_stored_is_found(cache: Cache, name: str) -> None:
    cache.store(name + "r", b"result", name + "f", b"features")
    await cache.flush()
    assert await cache.lookup(name + "r", name + "f") == Found(result=b"result")
    assert await cache.lookup(name + "x", name + "f") == Found(features=b"features")
    assert await cache.lookup(name + "x", None) == Found()
    assert cache.outcomes == {
        Outcome.STORED: 2,
        Outcome.HIT_RESULT: 1,
        Outcome.HIT_FEATURES: 1,
        Outcome.MISS: 1,
    }


async def test_lookups_at_one_time_travel_together_and_are_not_mixed_up(
    cache: Cache, plain: Redis, name: str
) -> None:
    for number in range(0, 200, 2):
        cache.store(f"{name}{number}", b"%d" % number, f"{name}f{number}", b"f%d" % number)
    await cache.flush()
    await cache.lookup(name, None)
    before = (await plain.info("commandstats"))["cmdstat_eval"]["calls"]
    found = await asyncio.gather(
        *(cache.lookup(f"{name}{number}", f"{name}f{number - 1}") for number in range(200))
    )
    assert found == [
        Found(features=b"f%d" % (number - 1)) if number % 2 else Found(result=b"%d" % number)
        for number in range(200)
    ]
    after = (await plain.info("commandstats"))["cmdstat_eval"]["calls"]
    assert after - before == 4


async def test_values_live_for_as_long_as_was_said(cache: Cache, plain: Redis, name: str) -> None:
    cache.store(name + "r", b"x", name + "f", b"y", ttl=timedelta(minutes=5))
    cache.store(name + "d", b"z")
    await cache.flush()
    for key, seconds in ((name + "r", 300), (name + "f", 300), (name + "d", 3600)):
        assert seconds - 20 < await plain.ttl(key) <= seconds


async def test_a_value_that_is_too_large_is_not_stored(valkey_url: str, name: str) -> None:
    cache = Cache(url=valkey_url, timeout=PATIENT, max_value_bytes=10)
    cache.store(name, b"x" * 10, name + "f", b"x" * 11)
    await cache.flush()
    assert await cache.lookup(name, None) == Found(result=b"x" * 10)
    assert await cache.lookup(name + "x", name + "f") == Found()
    assert cache.outcomes[Outcome.TOO_LARGE] == 1
    await cache.close()


async def test_large_values_are_stored_in_several_commands(
    cache: Cache, plain: Redis, name: str
) -> None:
    before = (await plain.info("commandstats"))["cmdstat_eval"]["calls"]
    for number in range(8):
        cache.store(f"{name}{number}", bytes([number]) * 600_000)
    await cache.flush()
    after = (await plain.info("commandstats"))["cmdstat_eval"]["calls"]
    assert after - before == 8
    for number in range(8):
        assert await cache.lookup(f"{name}{number}", None) == Found(bytes([number]) * 600_000)


async def test_without_a_url_nothing_is_kept_and_nothing_counted() -> None:
    cache = Cache(url=None)
    cache.store("k", b"v")
    assert await cache.lookup("k", "f") == Found()
    assert cache.outcomes == {}
    await cache.close()


@pytest.mark.parametrize("url", ["http://localhost", "nonsense", ""])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="redis_url"):
        Cache(url=url)


async def test_a_hanging_server_is_waited_for_briefly_and_used_again_when_it_goes_on(
    server: ValkeyServer,
) -> None:
    cache = Cache(url=server.url, timeout=TIMEOUT)
    cache.store("before", b"kept")
    await cache.flush()
    signal_to(server, signal.SIGSTOP)
    begin = time.monotonic()
    assert await asyncio.gather(*(cache.lookup("before", None) for _ in range(100))) == (
        [Found()] * 100
    )
    assert time.monotonic() - begin < 20 * TIMEOUT.total_seconds()
    assert cache.outcomes[Outcome.TIMEOUT] == 64
    assert cache.outcomes[Outcome.SKIPPED] == 36
    cache.store("during", b"lost")
    assert cache.outcomes[Outcome.DROPPED] == 1
    signal_to(server, signal.SIGCONT)
    await until(
        lambda: cache.outcomes[Outcome.HIT_RESULT] > 0, lambda: cache.lookup("before", None)
    )
    # Answers that came too late were not taken for answers to later questions.
    cache.store("after", b"new")
    await cache.flush()
    assert await cache.lookup("after", None) == Found(b"new")
    assert await cache.lookup("never", "before") == Found(features=b"kept")
    await cache.close()


async def test_a_skipped_lookup_takes_no_time(server: ValkeyServer) -> None:
    cache = Cache(url=server.url, timeout=TIMEOUT)
    signal_to(server, signal.SIGSTOP)
    await cache.lookup("key", None)
    begin = time.monotonic()
    for _ in range(100):
        await cache.lookup("key", None)
    assert time.monotonic() - begin < 20 * TIMEOUT.total_seconds()
    assert cache.outcomes[Outcome.SKIPPED] == 100
    await cache.close()


async def test_a_killed_server_is_missed_by_nobody_and_used_again_when_it_is_back(
    server: ValkeyServer,
) -> None:
    counted: Counter[Outcome] = Counter()

    def count(outcome: Outcome, times: int) -> None:
        counted[outcome] += times

    cache = Cache(url=server.url, timeout=TIMEOUT, count=count)
    cache.store("key", b"value")
    await cache.flush()
    signal_to(server, signal.SIGKILL)
    await server.wait()
    assert await cache.lookup("key", None) == Found()
    assert await cache.lookup("key", None) == Found()
    cache.store("key", b"value")
    assert counted == {
        Outcome.STORED: 1,
        Outcome.ERROR: 1,
        Outcome.SKIPPED: 1,
        Outcome.DROPPED: 1,
    }
    await server.start()

    async def store() -> None:
        cache.store("key", b"again")
        await cache.flush()

    await until(lambda: cache.outcomes[Outcome.STORED] > 1, store)
    assert await cache.lookup("key", None) == Found(b"again")
    assert cache.outcomes == counted
    await cache.close()


async def test_what_waits_to_be_stored_is_bounded_while_the_server_hangs(
    server: ValkeyServer,
) -> None:
    cache = Cache(url=server.url, timeout=TIMEOUT, max_pending_bytes=1000)
    signal_to(server, signal.SIGSTOP)
    for number in range(10):
        cache.store(f"key{number}", b"x" * 300)
    assert cache.outcomes[Outcome.DROPPED] == 7
    await cache.close()
    assert cache.outcomes[Outcome.DROPPED] == 10


async def test_a_server_that_refuses_writes_still_answers_lookups(server: ValkeyServer) -> None:
    cache = Cache(url=server.url, timeout=PATIENT)
    cache.store("old", b"kept")
    await cache.flush()
    async with Redis.from_url(server.url) as plain:
        await plain.config_set("maxmemory-policy", "noeviction")
        await plain.config_set("maxmemory", 1)
    cache.store("new", b"refused")
    await cache.flush()
    assert cache.outcomes[Outcome.DROPPED] == 1
    assert await cache.lookup("old", None) == Found(b"kept")
    await cache.close()


async def test_a_cancelled_lookup_disturbs_nobody(cache: Cache, name: str) -> None:
    cache.store(name, b"value")
    await cache.flush()
    async with asyncio.TaskGroup() as group:
        lost = group.create_task(cache.lookup(name, None))
        kept = group.create_task(cache.lookup(name, None))
        await asyncio.sleep(0)
        lost.cancel()
    assert lost.cancelled()
    assert kept.result() == Found(b"value")
