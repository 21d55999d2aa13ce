"""The keys of the mesh, in the KV bucket `vm_keys`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import RawStreamMsg
from nats.js.errors import KeyWrongLastSequenceError
from pydantic import ValidationError

from visionmesh.bus.bucket import Bucket
from visionmesh.errors import Code, Refused
from visionmesh.keys.record import KeyRecord

KEYS_BUCKET = "vm_keys"

log = logging.getLogger(__name__)


class KeyStore:
    """Keeps, lists, revokes and watches keys; any number of processes may do so at once."""

    def __init__(self, nc: Client, *, replicas: int = 1) -> None:
        self._bucket = Bucket(nc, KEYS_BUCKET, replicas=replicas)

    async def add(self, record: KeyRecord) -> None:
        """Store a new key's record; raise `Refused` (mesh_unreachable)."""
        with _reaching_mesh():
            await (await self._bucket.open()).create(record.id, record.model_dump_json().encode())

    async def list(self) -> tuple[KeyRecord, ...]:
        """Return all keys, revoked ones too, the oldest first; raise `Refused`."""
        found: dict[str, KeyRecord] = {}
        with _reaching_mesh():
            async for message in self._bucket.stored():
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
            bucket = await self._bucket.open()
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
        async with aclosing(self._bucket.watch()) as changes:
            async for message in changes:
                if message is None:
                    yield None
                else:
                    yield str(message.subject).rpartition(".")[2], _record(message)


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
