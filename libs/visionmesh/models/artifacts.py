"""ONNX files by their SHA-256: kept in the mesh's object store, and in a folder of each node."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import ObjectInfo, ObjectMeta, ObjectMetaOptions, StorageType
from nats.js.errors import BadRequestError, NotFoundError, ObjectNotFoundError
from nats.js.object_store import ObjectStore

from visionmesh.errors import Code, Refused, Retry
from visionmesh.subjects import ARTIFACTS_BUCKET

_STREAM = f"OBJ_{ARTIFACTS_BUCKET}"
_CHUNK_BYTES = 256 * 1024
"""Far below any server's max_payload, and few enough round trips for 100 MB."""
_CACHE_BYTES = 4 << 30
_ABANDONED = timedelta(hours=1)
"""After this a partial download is nobody's any more."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ArtifactStore:
    """The object store `vm_artifacts`; an object's name is the SHA-256 of its bytes."""

    def __init__(self, nc: Client, *, replicas: int = 1) -> None:
        self._js = nc.jetstream()
        self._replicas = replicas
        self._opened: ObjectStore | None = None

    async def has(self, sha256: str) -> bool:
        """Say whether the object is there, whole."""
        return await self._info(sha256) is not None

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

    async def delete(self, sha256: str) -> None:
        """Remove the object and free its space; one that is not there is no error."""
        try:
            await (await self._store()).delete(sha256)
        except ObjectNotFoundError:
            return

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
        target = directory / f"{sha256}.onnx"
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
        subject = f"$O.{ARTIFACTS_BUCKET}.C.{info.nuid}"
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
            file.unlink(missing_ok=True)
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
