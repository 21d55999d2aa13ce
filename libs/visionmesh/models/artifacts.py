"""ONNX files by their SHA-256: kept in the mesh's object store, and in a folder of each node."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import ObjectInfo, ObjectMeta, ObjectMetaOptions, StorageType
from nats.js.errors import BadRequestError, NotFoundError, ObjectNotFoundError
from nats.js.object_store import ObjectStore

from visionmesh.bus.api import stored_message
from visionmesh.errors import Code, Refused, Retry
from visionmesh.subjects import ARTIFACTS_BUCKET

_STREAM = f"OBJ_{ARTIFACTS_BUCKET}"
_OBJECTS = f"$O.{ARTIFACTS_BUCKET}"
"""How subjects begin: of chunks by the upload, of descriptions by the object's name."""
_CHUNK_BYTES = 256 * 1024
"""Far below any server's max_payload, and few enough round trips for 100 MB."""
_CACHE_BYTES = 4 << 30
_BROKEN_OFF = timedelta(minutes=10)
"""After this an upload that does not grow will never be whole."""
_ABANDONED = timedelta(hours=1)
"""After this a partial download is nobody's any more."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ArtifactStore:
    """The object store `vm_artifacts`; an object's name is the SHA-256 of its bytes."""

    def __init__(self, nc: Client, *, replicas: int = 1) -> None:
        self._nc = nc
        self._js = nc.jetstream()
        self._replicas = replicas
        self._opened: ObjectStore | None = None

    async def has(self, sha256: str) -> bool:
        """Say whether the object is there, whole."""
        info = await self._info(sha256)
        if info is None:
            return False
        subject = _chunks_of(info)
        return (await self._messages(subject)).get(subject, 0) == (info.chunks or 0)

    async def put(self, sha256: str, file: Path) -> None:
        """Store ``file``, streamed; nothing is visible until all of it is there."""
        store = await self._store()
        meta = ObjectMeta(name=sha256, options=ObjectMetaOptions(max_chunk_size=_CHUNK_BYTES))
        source = await asyncio.to_thread(file.open, "rb")
        with source:
            info = await store.put(sha256, source, meta=meta)
        if _hex_digest(info) != sha256:
            await store.delete(sha256)
            raise Refused(Code.MODEL_INVALID, f"{file} changed while it was uploaded; push again.")
        if not await self.has(sha256):
            await store.delete(sha256)
            raise Retry(f"{file} was not stored whole; push again.", code=Code.MESH_UNREACHABLE)

    async def delete(self, sha256: str) -> None:
        """Remove the object and free its space; one that is not there is no error."""
        try:
            await (await self._store()).delete(sha256)
        except ObjectNotFoundError:
            return

    async def older(self, than: timedelta) -> set[str]:
        """Return the names of the objects that were stored longer ago ``than`` this."""
        found = set()
        for subject in await self._messages(f"{_OBJECTS}.M.>"):
            told = await stored_message(self._nc, _STREAM, last_by_subj=subject)
            if told is not None and _age(told) > than and not json.loads(told.data).get("deleted"):
                found.add(_name_in(subject))
        return found

    async def sweep(self, *, older_than: timedelta = _BROKEN_OFF) -> int:
        """Free what belongs to no object and has not grown for a while; return how many uploads.

        An upload that was broken off leaves such chunks, and so does a removal.
        """
        names = await self._messages(f"{_OBJECTS}.M.>")
        infos = [await self._info(_name_in(subject)) for subject in names]
        known = {_chunks_of(info) for info in infos if info is not None}
        freed = 0
        for subject in (await self._messages(f"{_OBJECTS}.C.>")).keys() - known:
            last = await stored_message(self._nc, _STREAM, last_by_subj=subject)
            if last is not None and _age(last) > older_than:
                await self._js.purge_stream(_STREAM, subject=subject)
                freed += 1
        return freed

    async def fetch(self, sha256: str, directory: Path, *, limit: int = _CACHE_BYTES) -> Path:
        """Return the object as a file in ``directory``, downloaded if it is not there or broken.

        The file appears at once and whole, however many processes fetch it. The least recently
        fetched files give way when ``directory`` exceeds ``limit`` bytes.

        Raises
        ------
        Refused
            (unknown_version) if the mesh has no such object.
        Retry
            If the download failed; nothing is left behind.
        """
        if not _SHA256.fullmatch(sha256):
            raise Refused(Code.UNKNOWN_VERSION, f"{sha256[:80]!r} is not the name of an artefact.")
        target = _file_of(sha256, directory)
        if not await asyncio.to_thread(_is_intact, target, sha256):
            await self._download(sha256, target)
        await asyncio.to_thread(_make_room, target, limit)
        return target

    async def _download(self, sha256: str, target: Path) -> None:
        info = await self._info(sha256)
        if info is None:
            raise Refused(
                Code.UNKNOWN_VERSION, f"The mesh has no artefact {sha256}; push the model again."
            )
        partial = await asyncio.to_thread(_new_partial, target)
        digest = hashlib.sha256()
        try:
            with partial.open("wb") as sink:
                async for chunk in self._chunks(info):
                    digest.update(chunk)
                    sink.write(chunk)
            if digest.hexdigest() != sha256:
                raise Retry(f"Artefact {sha256} did not arrive whole.")
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    async def _chunks(self, info: ObjectInfo) -> AsyncIterator[bytes]:
        """Read chunk by chunk: bounded in memory, and no consumer that a lost connection stalls."""
        subject = _chunks_of(info)
        sequence = 0
        for _ in range(info.chunks or 0):
            try:
                message = await self._js.get_msg(
                    _STREAM, seq=sequence + 1, subject=subject, next=True, direct=True
                )
            except (NatsError, OSError) as error:
                raise Retry(f"Artefact {info.name} could not be read: {error!r}.") from error
            sequence = message.seq
            yield message.data

    async def _info(self, sha256: str) -> ObjectInfo | None:
        try:
            return await (await self._store()).get_info(sha256)
        except ObjectNotFoundError:
            return None

    async def _messages(self, subjects: str) -> dict[str, int]:
        """Return the number of messages by subject."""
        await self._store()
        info = await self._js.stream_info(_STREAM, subjects_filter=subjects)
        return info.state.subjects or {}

    async def _store(self) -> ObjectStore:
        if self._opened is None:
            try:
                self._opened = await self._js.object_store(ARTIFACTS_BUCKET)
            except NotFoundError:
                self._opened = await self._create()
        return self._opened

    async def _create(self) -> ObjectStore:
        try:
            return await self._js.create_object_store(
                ARTIFACTS_BUCKET, storage=StorageType.FILE, replicas=self._replicas
            )
        except BadRequestError:  # somebody else was quicker, with other settings
            return await self._js.object_store(ARTIFACTS_BUCKET)


def _chunks_of(info: ObjectInfo) -> str:
    return f"{_OBJECTS}.C.{info.nuid}"


def _name_in(subject: str) -> str:
    """Return the object's name that the subject of its description carries."""
    return base64.urlsafe_b64decode(subject.rpartition(".")[2]).decode()


def _age(message: Msg) -> timedelta:
    stored = (message.headers or {})["Nats-Time-Stamp"]
    return datetime.now(UTC) - datetime.fromisoformat(stored)


def forget_files(directory: Path, hashes: Iterable[str]) -> None:
    """Delete what `ArtifactStore.fetch` has put into ``directory`` under these hashes, if any."""
    for sha256 in hashes:
        _delete(_file_of(sha256, directory))


def caches_of(file: Path) -> Path:
    """Return the folder for what is derived of a node's file, and is deleted with it."""
    return file.with_suffix(".caches")


def _delete(file: Path) -> None:
    file.unlink(missing_ok=True)
    shutil.rmtree(caches_of(file), ignore_errors=True)


def _file_of(sha256: str, directory: Path) -> Path:
    return directory / f"{sha256}.onnx"


def file_sha256(file: Path) -> str:
    """Return the SHA-256 of the file's bytes in hexadecimal, read in pieces."""
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _hex_digest(info: ObjectInfo) -> str:
    return base64.urlsafe_b64decode((info.digest or "").partition("=")[2]).hex()


def _is_intact(target: Path, sha256: str) -> bool:
    """Say whether the cached file is there and whole, and note that it was used."""
    try:
        intact = file_sha256(target) == sha256
        os.utime(target)
    except FileNotFoundError:
        return False
    return intact


def _new_partial(target: Path) -> Path:
    """Make an empty file beside ``target`` that no other process writes to."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f"{target.stem}.", suffix=".partial", dir=target.parent)
    os.close(handle)
    return Path(name)


def _make_room(kept: Path, limit: int) -> None:
    """Delete the least recently used files beside ``kept``, and partial ones left by the dead."""
    total = 0
    for _, size, file in _newest_first(kept.parent, ".onnx"):
        total += size
        if total > limit and file != kept:
            _delete(file)
    for modified, _, file in _newest_first(kept.parent, ".partial"):
        if time.time() - modified > _ABANDONED.total_seconds():
            file.unlink(missing_ok=True)


def _newest_first(directory: Path, suffix: str) -> list[tuple[float, int, Path]]:
    """Return modification time, bytes and path of the files that end in ``suffix``."""
    found = []
    for file in directory.glob(f"*{suffix}"):
        with suppress(FileNotFoundError):  # another process may make room at the same time
            stat = file.stat()
            found.append((stat.st_mtime, stat.st_size, file))
    return sorted(found, reverse=True)
