"""How many images a key has had of late: counted in Redis by all workers together, or alone."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from visionmesh.cache.breaker import Breaker
from visionmesh.cache.cache import connect
from visionmesh.keys.rate import Rate

_TAKE = """\
local now = redis.call('TIME')
local window = tonumber(ARGV[2])
local time = now[1] * 1000 + now[2] / 1000
local number = math.floor(time / window)
local elapsed = time / window - number
local here, last = KEYS[1] .. ':' .. number, KEYS[1] .. ':' .. (number - 1)
local count = tonumber(redis.call('GET', here) or '0')
local before = tonumber(redis.call('GET', last) or '0')
local free = tonumber(ARGV[1]) - tonumber(ARGV[3])
local over = 0
if count > free then
  over = 2 - elapsed - math.max(free, 0) / count
elseif before > 0 then
  over = math.max(0, 1 - elapsed - (free - count) / before)
end
if over > 0 then return math.ceil(over * window) end
redis.call('INCRBY', here, ARGV[3])
redis.call('PEXPIRE', here, 2 * window)
return 0
"""
"""`Rate.wait` with the server's clock, and the count where nothing is to be waited for. The second
key is the first one's neighbour: both are in one slot of a cluster, as they share the braces."""

_FIRST_PAUSE = timedelta(milliseconds=200)
_LONGEST_PAUSE = timedelta(seconds=5)
_MILLISECOND = timedelta(milliseconds=1)


class Quota:
    """Counts images on the rates of keys.

    Without ``url``, or while nobody answers there within ``timeout``, each worker counts alone: a
    key may then have its rate at every one of them.
    """

    def __init__(
        self, *, url: str | None, timeout: timedelta = timedelta(milliseconds=100)
    ) -> None:
        self._client = connect(url) if url is not None else None
        self._timeout = timeout.total_seconds()
        self._breaker = Breaker(first=_FIRST_PAUSE, longest=_LONGEST_PAUSE)
        self._counts: dict[str, _Count] = {}
        self._closed: dict[str, tuple[float, int]] = {}
        """Until when (monotonic) so many images of a key need not be asked for."""

    async def take(self, id: str, rate: Rate, images: int) -> timedelta:
        """Count ``images`` of the key ``id`` and return zero; or count none and return the wait."""
        until, refused = self._closed.get(id, (0.0, 0))
        left = until - time.monotonic()
        if left > 0 and images >= refused:
            return timedelta(seconds=left)
        wait = await self._ask(id, rate, images)
        if wait is None:
            wait = self._counts.setdefault(id, _Count()).take(rate, images)
        if wait:
            self._closed[id] = (time.monotonic() + wait.total_seconds(), images)
        else:
            self._closed.pop(id, None)
        return wait

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def _ask(self, id: str, rate: Rate, images: int) -> timedelta | None:
        """Return what the server says; `None`: it does not answer."""
        if self._client is None or self._breaker.is_open:
            return None
        try:
            async with asyncio.timeout(self._timeout):
                wait: int = await self._client.eval(
                    _TAKE, 1, f"vm:rate:{{{id}}}", rate.images, rate.window // _MILLISECOND, images
                )
        except (TimeoutError, RedisTimeoutError, RedisError, OSError):
            self._breaker.fail()
            return None
        self._breaker.succeed()
        return wait * _MILLISECOND


class _Count:
    """What one worker counts alone: of the present window and of the one before."""

    def __init__(self) -> None:
        self._number = 0
        self._now = 0
        self._before = 0

    def take(self, rate: Rate, images: int) -> timedelta:
        number, into = divmod(time.time(), rate.window.total_seconds())
        if number != self._number:
            self._before = self._now if number == self._number + 1 else 0
            self._number, self._now = int(number), 0
        wait = rate.wait(
            before=self._before,
            now=self._now,
            elapsed=into / rate.window.total_seconds(),
            images=images,
        )
        if not wait:
            self._now += images
        return wait
