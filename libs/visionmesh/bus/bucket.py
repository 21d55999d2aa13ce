"""A KV bucket whose records many processes write and follow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import timedelta

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.api import RawStreamMsg, StorageType
from nats.js.errors import BadRequestError, NotFoundError
from nats.js.kv import KeyValue

_POLL = timedelta(seconds=2)
"""How late a watcher may notice a change whose announcement was lost with a connection."""
_SOON = timedelta(milliseconds=5)
"""After an announcement that came before its change, which a busy server has yet to store."""
_AWAY = timedelta(milliseconds=200)
"""Between two tries of a watcher while the server does not answer."""


class Bucket:
    """Opens or makes the bucket, and reads it by the order in which it was written."""

    def __init__(self, nc: Client, name: str, *, replicas: int = 1) -> None:
        self._nc = nc
        self._js = nc.jetstream()
        self._name = name
        self._subjects = f"$KV.{name}.>"
        self._replicas = replicas
        self._opened: KeyValue | None = None

    async def open(self) -> KeyValue:
        """Return the bucket, made on disk if it is not there."""
        if self._opened is None and not await self.exists():
            self._opened = await self._create()
        assert self._opened is not None
        return self._opened

    async def exists(self) -> bool:
        """Say whether anybody has made the bucket."""
        try:
            self._opened = self._opened or await self._js.key_value(self._name)
        except NotFoundError:
            return False
        return True

    async def stored(self, *, behind: int = 0) -> AsyncIterator[RawStreamMsg]:
        """Yield what was written last under each key, behind a place in the stream.

        A message without data marks a removal.
        """
        await self.open()
        while message := await self._next(behind):
            behind = message.seq
            yield message

    async def watch(self) -> AsyncGenerator[RawStreamMsg | None, None]:
        """Yield what is stored, then `None`, then each change, for ever and through reconnects.

        Of several changes under one key in quick succession only the last one is certain to be
        seen. Closing the iterator ends the watch.
        """
        # The server announces what is written; the position in the stream decides what is read.
        # So a lost announcement costs a poll's delay, and nothing is ever missed or read twice.
        # It announces and stores side by side: polls follow an announcement, ever more slowly.
        announcements = await self._nc.subscribe(self._subjects)
        try:
            sequence, complete, pause = 0, False, _POLL
            while True:
                try:
                    async for message in self.stored(behind=sequence):
                        sequence = message.seq
                        yield message
                except (NatsError, OSError):
                    await asyncio.sleep(_AWAY.total_seconds())
                    continue
                if not complete:
                    complete = True
                    yield None
                try:
                    await announcements.next_msg(timeout=pause.total_seconds())
                    pause = _SOON
                except NatsTimeoutError:
                    pause = min(2 * pause, _POLL)
        finally:
            if not self._nc.is_closed:
                await announcements.unsubscribe()

    async def _next(self, sequence: int) -> RawStreamMsg | None:
        """Return the first message behind ``sequence``."""
        try:
            return await self._js.get_msg(
                f"KV_{self._name}", seq=sequence + 1, subject=self._subjects, next=True, direct=True
            )
        except NotFoundError:
            return None

    async def _create(self) -> KeyValue:
        try:
            return await self._js.create_key_value(
                bucket=self._name, storage=StorageType.FILE, replicas=self._replicas, direct=True
            )
        except BadRequestError:  # somebody else was quicker, with other settings
            return await self._js.key_value(self._name)
