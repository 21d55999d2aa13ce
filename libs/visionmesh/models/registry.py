"""The models of the mesh: records in the KV bucket `vm_models`, files in the object store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import RawStreamMsg
from nats.js.errors import (
    KeyNotFoundError,
    KeyWrongLastSequenceError,
)
from pydantic import ValidationError

from visionmesh.bus.bucket import Bucket
from visionmesh.errors import Code, Refused
from visionmesh.faults import first_fault
from visionmesh.models.artifacts import ArtifactStore
from visionmesh.models.folder import ModelFolder
from visionmesh.models.plans import Plans
from visionmesh.models.push import merged, selected
from visionmesh.models.record import ModelRecord
from visionmesh.subjects import MODELS_BUCKET, require_token

_CLAIMED_WITHIN = timedelta(days=1)
"""After this a push that has stored files, but no record that names them, is over."""

__all__ = ["Change", "ModelRecord", "Registry"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a watcher sees: a model was pushed (``record``) or removed (no record)."""

    name: str
    record: ModelRecord | None
    revision: int
    """Greater than that of every change before, to whatever model."""


class Registry:
    """Pushes, finds, watches and removes models; any number of processes may do so at once."""

    def __init__(self, nc: Client, *, replicas: int = 1) -> None:
        self._bucket = Bucket(nc, MODELS_BUCKET, replicas=replicas)
        self._artifacts = ArtifactStore(nc, replicas=replicas)
        self.plans = Plans(nc, artifacts=self._artifacts, replicas=replicas)

    async def push(
        self, folder: ModelFolder, *, version: int | None = None, replace: bool = False
    ) -> ModelRecord:
        """Store the folder's versions (or only one of them) and its spec; return what is stored.

        Files that the mesh has are not sent again, the record is written last, and nothing is
        written if nothing changed. Versions that are stored but not in the folder stay as they are.

        Raises
        ------
        ConfigurationError
            (model_invalid) if a network does not fit the spec.
        Refused
            (unknown_version) if the folder has no such version; (version_exists) if the mesh has
            another network under its number, unless ``replace``; (model_exists) if the mesh has a
            model of this name for another task; (mesh_unreachable).
        """
        files = await asyncio.to_thread(selected, folder, version)
        with _reaching_mesh():
            while True:
                old, revision = await self._read(folder.spec.name)
                record = _at(revision, await merged(folder, old, files, replace=replace))
                for pushed in files.values():
                    for sha256, file in pushed.objects.items():
                        if not await self._artifacts.has(sha256):
                            await self._artifacts.put(sha256, file)
                if record == old:
                    return record
                if written := await self._write(record):
                    await self._free(old)
                    return written

    async def change(self, name: str, change: Callable[[ModelRecord], ModelRecord]) -> ModelRecord:
        """Replace a model's record by what ``change`` makes of it; return what is stored.

        Files of versions that are not in it any more are freed. ``change`` is called again if
        another change came in between; what it raises ends the call.

        Raises
        ------
        Refused
            (unknown_model, invalid_name) if there is none.
        """

        return await self._replace(name, lambda old: change(_there(name, old)))

    async def put(self, record: ModelRecord) -> ModelRecord:
        """Store a record whose files are there already, in place of what had its name."""
        return await self._replace(record.spec.name, lambda _: record)

    async def get(self, name: str) -> ModelRecord:
        """Return a model; raise `Refused` (unknown_model, invalid_name) if there is none."""
        with _reaching_mesh():
            return _there(name, (await self._read(require_token("model", name)))[0])

    async def list(self) -> tuple[ModelRecord, ...]:
        """Return all models, by name."""
        records: dict[str, ModelRecord | None] = {}
        with _reaching_mesh():
            async for message in self._bucket.stored():
                change = _change(_name(message), message.data, message.seq)
                records[change.name] = change.record
        return tuple(record for _, record in sorted(records.items()) if record)

    async def remove(self, name: str) -> None:
        """Remove a model and the files that no other model uses.

        A file that is pushed again in the very moment of its removal may be lost; `fetch` then
        says so, and another push mends it.

        Raises
        ------
        Refused
            (unknown_model) if there is none.
        """
        with _reaching_mesh():
            bucket = await self._bucket.open()
            try:
                entry = await bucket.get(require_token("model", name))
            except KeyNotFoundError as error:
                raise _unknown(name) from error
            await bucket.delete(name, last=entry.revision)
            change = _change(name, entry.value, entry.revision)
            await self._free(change.record)

    async def watch(self) -> AsyncIterator[Change | None]:
        """Yield every model, then `None`, then each change, for ever and through reconnects.

        Of several changes to one model in quick succession only the last one is certain to be
        seen. Closing the iterator ends the watch.
        """
        async with aclosing(self._bucket.watch()) as changes:
            async for message in changes:
                if message is None:
                    yield None
                else:
                    yield _change(_name(message), message.data, message.seq)

    async def fetch(self, sha256: str, *, directory: Path) -> Path:
        """Return the weights with this hash as a verified file in ``directory``.

        Raises
        ------
        Refused
            (unknown_version) if the mesh does not have it.
        Retry
            If the download failed.
        """
        with _reaching_mesh():
            return await self._artifacts.fetch(sha256, directory)

    async def _replace(
        self, name: str, make: Callable[[ModelRecord | None], ModelRecord]
    ) -> ModelRecord:
        with _reaching_mesh():
            while True:
                old, revision = await self._read(require_token("model", name))
                record = _at(revision, make(old))
                if record == old:
                    return record
                if written := await self._write(record):
                    if old is not None and old.objects != record.objects:
                        await self._free(old)
                    return written

    async def _read(self, name: str) -> tuple[ModelRecord | None, int]:
        """Return the record, if any, and the revision that the next write must name."""
        try:
            entry = await (await self._bucket.open()).get(name)
        except KeyNotFoundError as error:
            return None, error.entry.revision if error.entry else 0
        return _at(entry.revision, _record(name, entry.value)), entry.revision

    async def _write(self, record: ModelRecord) -> ModelRecord | None:
        """Return the record as it is stored; none if another one came behind its revision."""
        name, value = record.spec.name, record.model_dump_json().encode()
        try:
            bucket = await self._bucket.open()
            return _at(await bucket.update(name, value, last=record.revision), record)
        except KeyWrongLastSequenceError:
            return None

    async def _free(self, old: ModelRecord | None) -> None:
        """Delete the files of ``old`` that no record uses now, and what broken pushes left.

        What was built of a network goes with it.
        """
        await self._artifacts.sweep()
        unclaimed = await self._artifacts.older(_CLAIMED_WITHIN)
        try:
            used = await self._used()
        except Refused as error:  # which files it uses only the other release knows
            log.warning("no file is freed: %s", error.message)
            return
        kept, forgotten = await self.plans.forget_all_but(used)
        for sha256 in (unclaimed | forgotten | (old.objects if old else set())) - used - kept:
            await self._artifacts.delete(sha256)

    async def _used(self) -> set[str]:
        used: set[str] = set()
        async for message in self._bucket.stored():
            if message.data:
                used |= _record(_name(message), message.data).objects
        return used


def _change(name: str, value: bytes | None, revision: int) -> Change:
    record = None
    if value:  # else the mark that a removal leaves
        try:
            record = _at(revision, _record(name, value))
        except Refused as error:  # this release does without the model
            log.error("%s", error.message)
    return Change(name=name, record=record, revision=revision)


def _at(revision: int, record: ModelRecord) -> ModelRecord:
    return record.model_copy(update={"revision": revision})


def _name(message: RawStreamMsg) -> str:
    return str(message.subject).removeprefix(f"$KV.{MODELS_BUCKET}.")


def _record(name: str, value: bytes | None) -> ModelRecord:
    try:
        return ModelRecord.model_validate_json(value or b"")
    except ValidationError as error:
        raise Refused(
            Code.MODEL_INVALID,
            f"Model {name!r} was pushed by another release of visionmesh, whose record this one "
            f"cannot read ({first_fault(error)}): use that release, or remove the model.",
        ) from error


def _there(name: str, record: ModelRecord | None) -> ModelRecord:
    if record is None:
        raise _unknown(name)
    return record


def _unknown(name: str) -> Refused:
    return Refused(
        Code.UNKNOWN_MODEL,
        f"There is no model {name!r} in the mesh; push it, or look at `visionmesh list`.",
    )


@contextmanager
def _reaching_mesh() -> Iterator[None]:
    """Tell a server that does not answer apart from one that refuses."""
    try:
        yield
    except NatsError as error:
        raise Refused(
            Code.MESH_UNREACHABLE, f"The NATS server does not serve the registry: {error!r}."
        ) from error
