"""The cache in Redis or Valkey: never needed, never waited for long.

The server bounds its own memory: run it with ``maxmemory`` and ``maxmemory-policy allkeys-lru``,
as the embedded one does; a service that starts warns of another. Here single values are bounded,
and what waits to be stored.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from visionmesh.cache.breaker import Breaker
from visionmesh.cache.memory import warn_of_memory
from visionmesh.coalescer import Coalescer
from visionmesh.errors import Code, ConfigurationError

_LOOK_UP = """\
local found = {}
for i = 1, #KEYS, 2 do
  found[i] = redis.call('GET', KEYS[i])
  found[i + 1] = not found[i] and KEYS[i + 1] ~= '' and redis.call('GET', KEYS[i + 1])
end
return found
"""
"""Answers ``result, features`` for each pair of keys; features only where there is no result, so
that a hit does not carry what nobody needs."""

_STORE = """\
for i = 1, #KEYS do redis.call('SET', KEYS[i], ARGV[2 * i - 1], 'PX', ARGV[2 * i]) end
"""
"""One command and one answer for a batch: measured with 64 values, a sixth of the client's work
for a pipeline of as many SETs."""

_BATCH_ITEMS = 64
_STORE_BYTES = 1 << 20
"""Of one command, unless a single value is larger: the server does nothing else meanwhile."""
_STORE_PATIENCE = 10
"""Nobody waits for a store, so it may take this many times as long as a look-up."""
_MAX_CONNECTIONS = 4
_FIRST_PAUSE = timedelta(milliseconds=200)
_LONGEST_PAUSE = timedelta(seconds=5)


class Outcome(StrEnum):
    """What became of a look-up, or of a value to be stored."""

    HIT_RESULT = "hit_result"
    HIT_FEATURES = "hit_features"
    MISS = "miss"
    SKIPPED = "skipped"
    """The server failed a moment ago and was not asked."""
    TIMEOUT = "timeout"
    ERROR = "error"
    STORED = "stored"
    DROPPED = "dropped"
    """The server was away or too slow."""
    TOO_LARGE = "too_large"


@dataclass(frozen=True, slots=True)
class Found:
    """What a look-up found; features are left out where there is a result."""

    result: bytes | None = None
    features: bytes | None = None


_NOTHING = Found()


@dataclass(frozen=True, slots=True)
class _Value:
    key: str
    content: bytes
    ttl_ms: int


class Cache:
    """Looks up and stores answers and features; without a ``url`` it finds and keeps nothing.

    A look-up takes at most twice ``timeout`` (once for the batch before its own), however the
    server fares; after a failure the server is left alone for a moment, and asked again by itself.
    ``count`` is told each outcome and how often it happened.
    """

    def __init__(
        self,
        *,
        url: str | None,
        timeout: timedelta = timedelta(milliseconds=50),
        ttl: timedelta = timedelta(hours=1),
        max_value_bytes: int = 8 << 20,
        max_pending_bytes: int = 32 << 20,
        count: Callable[[Outcome, int], None] | None = None,
    ) -> None:
        self._client = connect(url) if url is not None else None
        self._timeout = timeout.total_seconds()
        self._ttl = ttl
        self._max_value_bytes = max_value_bytes
        self._max_pending_bytes = max_pending_bytes
        self._count = count
        self._outcomes: Counter[Outcome] = Counter()
        self._pending_bytes = 0
        self._breaker = Breaker(first=_FIRST_PAUSE, longest=_LONGEST_PAUSE)
        self._lookups = Coalescer(process=self._look_up, max_items=_BATCH_ITEMS)
        self._stores = Coalescer(process=self._store, max_items=_BATCH_ITEMS)

    @property
    def outcomes(self) -> Mapping[Outcome, int]:
        """How often each outcome happened."""
        return MappingProxyType(self._outcomes)

    async def inspect(self) -> None:
        """Warn if the server's memory is not bounded as it must be."""
        if self._client is not None:
            await warn_of_memory(self._client)

    async def lookup(self, result_key: str, features_key: str | None) -> Found:
        """Return the answer under ``result_key``, else the features under ``features_key``.

        Look-ups of one moment travel together. Nothing is raised: a server that does not answer
        in time has nothing.
        """
        if self._client is None:
            return _NOTHING
        if self._breaker.is_open:
            self._note(Outcome.SKIPPED)
            return _NOTHING
        return await self._lookups.submit((result_key, features_key or ""))

    def store(
        self,
        result_key: str,
        result: bytes,
        features_key: str | None = None,
        features: bytes | None = None,
        ttl: timedelta | None = None,
    ) -> None:
        """Have the values stored soon, for ``ttl``; what cannot be is dropped and counted."""
        if self._client is None:
            return
        ttl_ms = max(1, (ttl or self._ttl) // timedelta(milliseconds=1))
        self._put(_Value(result_key, result, ttl_ms))
        if features_key is not None and features is not None:
            self._put(_Value(features_key, features, ttl_ms))

    async def flush(self) -> None:
        """Return when everything that waits is stored or dropped."""
        await self._stores.flush()

    async def close(self) -> None:
        """Store what waits and disconnect."""
        await self._lookups.close()
        await self._stores.close()
        if self._client is not None:
            await self._client.aclose()

    def _put(self, value: _Value) -> None:
        if len(value.content) > self._max_value_bytes:
            self._note(Outcome.TOO_LARGE)
        elif (
            self._breaker.is_open
            or self._pending_bytes + len(value.content) > self._max_pending_bytes
        ):
            self._note(Outcome.DROPPED)
        else:
            self._pending_bytes += len(value.content)
            self._stores.submit(value)

    async def _look_up(self, pairs: Sequence[tuple[str, str]]) -> list[Found]:
        keys = [key for pair in pairs for key in pair]
        values = await self._ask(_LOOK_UP, keys, (), self._timeout)
        if isinstance(values, Outcome):
            self._note(values, len(pairs))
            return [_NOTHING] * len(pairs)
        found = [Found(*pair) for pair in zip(values[::2], values[1::2], strict=True)]
        for one in found:
            self._note(_outcome(one))
        return found

    async def _store(self, values: Sequence[_Value]) -> list[None]:
        for part in _split(values):
            arguments = [argument for value in part for argument in (value.content, value.ttl_ms)]
            keys = [value.key for value in part]
            answer = await self._ask(_STORE, keys, arguments, self._timeout * _STORE_PATIENCE)
            failed = isinstance(answer, Outcome)
            self._note(Outcome.DROPPED if failed else Outcome.STORED, len(part))
            self._pending_bytes -= sum(len(value.content) for value in part)
        return [None] * len(values)

    async def _ask(
        self, script: str, keys: list[str], arguments: Sequence[bytes | int], seconds: float
    ) -> Any:
        """Return what the server answers, or why it did not."""
        assert self._client is not None
        if self._breaker.is_open:
            return Outcome.SKIPPED
        try:
            async with asyncio.timeout(seconds):
                answer = await self._client.eval(script, len(keys), *keys, *arguments)
        except ResponseError:
            # It is there and answers at once; only this is not to its taste (memory, rights).
            return Outcome.ERROR
        except (TimeoutError, RedisTimeoutError):
            self._breaker.fail()
            return Outcome.TIMEOUT
        except (RedisError, OSError):
            self._breaker.fail()
            return Outcome.ERROR
        self._breaker.succeed()
        return answer

    def _note(self, outcome: Outcome, times: int = 1) -> None:
        self._outcomes[outcome] += times
        if self._count is not None:
            self._count(outcome, times)


def connect(url: str) -> Redis:
    try:
        return Redis.from_url(
            url,
            retry=Retry(NoBackoff(), 0),
            max_connections=_MAX_CONNECTIONS,
            # Time is kept here, for a whole batch at once.
            socket_timeout=None,
            socket_connect_timeout=None,
            protocol=2,
        )
    except ValueError as error:
        raise ConfigurationError(
            Code.SETTINGS_INVALID, f"redis_url: {error}. Write redis://host:port."
        ) from error


def _outcome(found: Found) -> Outcome:
    if found.result is not None:
        return Outcome.HIT_RESULT
    return Outcome.HIT_FEATURES if found.features is not None else Outcome.MISS


def _split(values: Sequence[_Value]) -> Iterator[Sequence[_Value]]:
    begin = size = 0
    for index, value in enumerate(values):
        if index > begin and size + len(value.content) > _STORE_BYTES:
            yield values[begin:index]
            begin, size = index, 0
        size += len(value.content)
    yield values[begin:]
