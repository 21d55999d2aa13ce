"""The keys of the mesh, in the KV bucket `vm_keys`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.api import RawStreamMsg, StorageType
from nats.js.errors import BadRequestError, KeyWrongLastSequenceError, NotFoundError
from nats.js.kv import KeyValue
from pydantic import ValidationError

from visionmesh.errors import Code, Refused
from visionmesh.keys.record import KeyRecord

KEYS_BUCKET = "vm_keys"

_STREAM = f"KV_{KEYS_BUCKET}"
_SUBJECTS = f"$KV.{KEYS_BUCKET}.>"
_POLL = timedelta(seconds=2)
"""How late a watcher may notice a change whose announcement was lost with a connection."""
_AWAY = timedelta(milliseconds=200)
"""Between two tries of a watcher while the server does not answer."""

log = logging.getLogger(__name__)


class KeyStore:
    """Keeps, lists, revokes and watches keys; any number of processes may do so at once."""

    def __init__(self, nc: Client, *, replicas: int = 1) -> None:
        self._nc = nc
        self._js = nc.jetstream()
        self._replicas = replicas
        self._opened: KeyValue | None = None

    async def add(self, record: KeyRecord) -> None:
        """Store a new key's record; raise `Refused` (mesh_unreachable)."""
        with _reaching_mesh():
            await (await self._bucket()).create(record.id, record.model_dump_json().encode())

    async def list(self) -> tuple[KeyRecord, ...]:
        """Return all keys, revoked ones too, the oldest first; raise `Refused`."""
        found: dict[str, KeyRecord] = {}
        with _reaching_mesh():
            await self._bucket()
            sequence = 0
            while message := await self._next(sequence):
                sequence = message.seq
                if (record := _record(message)) is not None:
                    found[record.id] = record
        return tuple(sorted(found.values(), key=lambda record: record.created))

    async def revoke(self, which: str) -> KeyRecord:
        """Make the key with this id, or the only valid one of this name, invalid for ever.

        Raises
        ------
        Refused
            (not_found) if there is none, (invalid_name) if several have the name;
            (mesh_unreachable).
        """
        record = _chosen(await self.list(), which)
        now = datetime.now(UTC)
        with _reaching_mesh():
            bucket = await self._bucket()
            while True:
                entry = await bucket.get(record.id)
                record = KeyRecord.model_validate_json(entry.value or b"")
                if record.revoked is not None:
                    return record
                record = record.model_copy(update={"revoked": now})
                try:
                    value = record.model_dump_json().encode()
                    await bucket.update(record.id, value, last=entry.revision)
                except KeyWrongLastSequenceError:
                    continue
                return record

    async def watch(self) -> AsyncIterator[tuple[str, KeyRecord | None] | None]:
        """Yield every key by its id, then `None`, then each change, through reconnects for ever.

        A key whose record cannot be read comes without one, as it is not to be accepted.
        """
        # As with models: an announcement that is lost costs a poll's delay, and no change.
        announcements = await self._nc.subscribe(_SUBJECTS)
        try:
            sequence, complete = 0, False
            while True:
                try:
                    await self._bucket()
                    while message := await self._next(sequence):
                        sequence = message.seq
                        yield str(message.subject).rpartition(".")[2], _record(message)
                except (NatsError, OSError):
                    await asyncio.sleep(_AWAY.total_seconds())
                    continue
                if not complete:
                    complete = True
                    yield None
                try:
                    await announcements.next_msg(timeout=_POLL.total_seconds())
                except NatsTimeoutError:
                    continue
        finally:
            if not self._nc.is_closed:
                await announcements.unsubscribe()

    async def _next(self, sequence: int) -> RawStreamMsg | None:
        try:
            return await self._js.get_msg(
                _STREAM, seq=sequence + 1, subject=_SUBJECTS, next=True, direct=True
            )
        except NotFoundError:
            return None

    async def _bucket(self) -> KeyValue:
        if self._opened is None:
            try:
                self._opened = await self._js.key_value(KEYS_BUCKET)
            except NotFoundError:
                self._opened = await self._create()
        return self._opened

    async def _create(self) -> KeyValue:
        try:
            return await self._js.create_key_value(
                bucket=KEYS_BUCKET,
                storage=StorageType.FILE,
                replicas=self._replicas,
                direct=True,
            )
        except BadRequestError:  # somebody else was quicker, with other settings
            return await self._js.key_value(KEYS_BUCKET)


def _record(message: RawStreamMsg) -> KeyRecord | None:
    try:
        return KeyRecord.model_validate_json(message.data or b"")
    except ValidationError as error:  # written by another release: the key is not known here
        log.error("the record of a key (%s) cannot be read: %s", message.subject, error)
        return None


def _chosen(records: tuple[KeyRecord, ...], which: str) -> KeyRecord:
    by_id = next((record for record in records if record.id == which), None)
    named = [record for record in records if record.name == which and record.fault() is None]
    if by_id is None and len(named) > 1:
        ids = ", ".join(record.id for record in named)
        raise Refused(Code.INVALID_NAME, f"Several keys are named {which!r}; name an id: {ids}.")
    if by_id is None and not named:
        raise Refused(
            Code.NOT_FOUND, f"No key has the id or the name {which!r}; see `visionmesh keys list`."
        )
    return by_id or named[0]


@contextmanager
def _reaching_mesh() -> Iterator[None]:
    try:
        yield
    except NatsError as error:
        raise Refused(
            Code.MESH_UNREACHABLE, f"The keys of the mesh cannot be reached: {error}"
        ) from error
