"""The keys of the mesh as this worker knows them, kept up to date."""

from __future__ import annotations

from collections.abc import Callable

from visionmesh.errors import Fatal
from visionmesh.following import Following
from visionmesh.keys.record import KeyRecord, id_in
from visionmesh.keys.store import KeyStore


class KeyRing:
    """Follows the store; while the mesh cannot be reached, the keys last heard of are valid.

    ``fail`` is told if the store cannot be followed any more: the worker is unfit then, as a key
    that is revoked later would be good here for ever.
    """

    def __init__(self, store: KeyStore, *, fail: Callable[[Fatal], None]) -> None:
        self._records: dict[str, KeyRecord] = {}
        self._following = Following(
            what="the keys", changes=store.watch, note=self._note, fail=fail
        )

    def __len__(self) -> int:
        """Return how many keys are valid."""
        return sum(record.fault() is None for record in self._records.values())

    @property
    def complete(self) -> bool:
        """Whether every key was heard of that there was at the start."""
        return self._following.complete

    async def start(self) -> None:
        """Return when every key is known."""
        await self._following.start()

    async def stop(self) -> None:
        await self._following.stop()

    def find(self, key: str) -> KeyRecord | None:
        """Return the record of ``key``, valid or not; `None`: there is no such key."""
        record = self._records.get(id_in(key) or "")
        return record if record is not None and record.is_of(key) else None

    def now(self, record: KeyRecord) -> KeyRecord:
        """Return what the store says by now of a key that was found before."""
        return self._records.get(record.id, record)

    async def _note(self, change: tuple[str, KeyRecord | None]) -> None:
        id, record = change
        if record is None:
            self._records.pop(id, None)
        else:
            self._records[id] = record
