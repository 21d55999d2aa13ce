"""Whether a server that somebody else runs makes room for what is new."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from redis.asyncio import Redis
from redis.exceptions import RedisError

_PATIENCE = timedelta(seconds=1)
"""A service that starts is held up for no longer by a server that hangs."""

log = logging.getLogger(__name__)


async def warn_of_memory(client: Redis) -> None:
    """Warn in one line if the server's memory is not bounded, or it forgets nothing at its bound.

    Nothing is said of a server that is away, or that keeps its settings to itself.
    """
    try:
        async with asyncio.timeout(_PATIENCE.total_seconds()):
            # Hosted servers forbid CONFIG, but answer this.
            told = await client.info("memory")
    except (RedisError, OSError, TimeoutError):
        return
    missing = []
    if told.get("maxmemory") == 0:
        missing.append("maxmemory to 256mb or so")
    if told.get("maxmemory_policy") == "noeviction":
        missing.append("maxmemory-policy to allkeys-lru")
    if missing:
        log.warning(
            "redis_url: the server there never makes room for what is new: set its %s.",
            " and its ".join(missing),
        )
