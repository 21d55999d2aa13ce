"""The keys of the mesh as this worker knows them, kept up to date."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from visionmesh.errors import Code, Fatal
from visionmesh.keys.record import KeyRecord, id_in
from visionmesh.keys.store import KeyStore
from visionmesh.tasks import end

log = logging.getLogger(__name__)


class KeyRing:
    """Follows the store; while the mesh cannot be reached, the keys last heard of are valid.

    ``fail`` is told if the store cannot be followed any more: the worker is unfit then.
    """

    def __init__(self, store: KeyStore, *, fail: Callable[[Fatal], None]) -> None:
        self._store = store
        self._fail = fail
        self._records: dict[str, KeyRecord] = {}
        self._known = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Return how many keys are valid."""
        return sum(record.fault() is None for record in self._records.values())

    @property
    def complete(self) -> bool:
        """Whether every key was heard of that there was at the start."""
        return self._known.is_set()

    async def start(self) -> None:
        """Return when every key is known."""
        self._task = asyncio.create_task(self._follow(), name="follow keys")
        self._task.add_done_callback(self._ended)
        known = asyncio.create_task(self._known.wait())
        await asyncio.wait((self._task, known), return_when=asyncio.FIRST_COMPLETED)
        known.cancel()
        if self._task.done():
            self._task.result()

    async def stop(self) -> None:
        if self._task is not None:
            await end([self._task])

    def find(self, key: str) -> KeyRecord | None:
        """Return the record of ``key``, valid or not; `None`: there is no such key."""
        record = self._records.get(id_in(key) or "")
        return record if record is not None and record.is_of(key) else None

    def now(self, record: KeyRecord) -> KeyRecord:
        """Return what the store says by now of a key that was found before."""
        return self._records.get(record.id, record)

    async def _follow(self) -> None:
        async for change in self._store.watch():
            match change:
                case None:
                    self._known.set()
                case id, None:
                    self._records.pop(id, None)
                case id, record:
                    self._records[id] = record

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("cannot follow the keys any more", exc_info=error)
            # A key that is revoked from now on would be good here for ever.
            self._fail(Fatal(Code.INTERNAL, f"The keys cannot be followed any more: {error}"))
