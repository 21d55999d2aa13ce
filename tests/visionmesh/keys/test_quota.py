"""Rates: in one Valkey for several workers, in each worker without one, and when it dies."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visionmesh.embedded import ValkeyServer
from visionmesh.keys import Rate
from visionmesh.keys.quota import Quota

PATIENT = timedelta(seconds=5)
HOURLY = Rate(10, timedelta(hours=1))


@pytest.fixture
def key() -> str:
    return uuid.uuid4().hex[:8]


@pytest.fixture
async def quotas(valkey_url: str) -> AsyncIterator[list[Quota]]:
    """Those of two workers."""
    both = [Quota(url=valkey_url, timeout=PATIENT) for _ in range(2)]
    yield both
    await asyncio.gather(*(quota.close() for quota in both))


async def taken(quotas: list[Quota], key: str, rate: Rate, times: int) -> int:
    """Return how many single images of ``times`` were allowed, asked for in turn."""
    waits = [await quotas[n % len(quotas)].take(key, rate, 1) for n in range(times)]
    return sum(not wait for wait in waits)


async def test_two_workers_share_one_rate(quotas: list[Quota], key: str) -> None:
    assert await taken(quotas, key, HOURLY, 30) == HOURLY.images


async def test_keys_do_not_share_a_rate(quotas: list[Quota], key: str) -> None:
    assert await taken(quotas, key, HOURLY, 20) == HOURLY.images
    assert await taken(quotas, f"{key}-2", HOURLY, 20) == HOURLY.images


async def test_images_are_counted_and_not_requests(quotas: list[Quota], key: str) -> None:
    assert not await quotas[0].take(key, HOURLY, 8)
    assert await quotas[0].take(key, HOURLY, 3)
    assert not await quotas[1].take(key, HOURLY, 2)


async def test_what_was_refused_large_may_be_taken_small(quotas: list[Quota], key: str) -> None:
    assert not await quotas[0].take(key, HOURLY, 8)
    assert await quotas[0].take(key, HOURLY, 3)
    assert not await quotas[0].take(key, HOURLY, 2)


@pytest.mark.parametrize("shared", [True, False], ids=["in Valkey", "alone"])
async def test_who_waits_as_long_as_told_is_let_through(
    valkey_url: str, key: str, shared: bool
) -> None:
    quota = Quota(url=valkey_url if shared else None, timeout=PATIENT)
    rate = Rate(5, timedelta(milliseconds=300))
    waited = 0
    began = time.monotonic()
    for _ in range(20):
        while wait := await quota.take(key, rate, 1):
            assert wait <= 2 * rate.window
            waited += 1
            await asyncio.sleep(wait.total_seconds())
    # 20 images at 5 in 0.3 s: two windows' worth may fall on the two ends, not more.
    assert time.monotonic() - began > 2 * rate.window.total_seconds()
    assert waited
    await quota.close()


async def test_each_worker_limits_alone_while_valkey_is_away(tmp_path: Path, key: str) -> None:
    async with ValkeyServer(directory=tmp_path) as server:
        quota = Quota(url=server.url, timeout=PATIENT)
        assert await taken([quota], key, HOURLY, 5) == 5
    assert await taken([quota], key, HOURLY, 30) == HOURLY.images
    await quota.close()


@given(
    images=st.integers(1, 1000),
    before=st.integers(0, 1000),
    now=st.integers(0, 1000),
    elapsed=st.floats(0, 1, exclude_max=True),
    cost=st.integers(1, 16),
)
def test_the_wait_is_over_just_when_the_window_has_room(
    images: int, before: int, now: int, elapsed: float, cost: int
) -> None:
    if cost > images:
        return
    rate = Rate(images, timedelta(hours=1))
    wait = rate.wait(before=before, now=now, elapsed=elapsed, images=cost)

    def used(after: float) -> float:
        """Return what the last hour held, ``after`` so many hours without a further image."""
        then = elapsed + after
        if then < 1:
            return before * (1 - then) + now
        return now * max(2 - then, 0)

    hours = wait / rate.window
    assert used(hours + 1e-6) + cost <= images + 1e-2
    if hours > 1e-3:
        assert used(hours - 1e-3) + cost > images - 1e-2
