"""Files that clients upload before they make a model of them, by their SHA-256."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from visionmesh.errors import Code, Refused, Reject

MAX_BLOB = 2 << 30
"""Bytes of one file."""
MAX_TOGETHER = 8 << 30
"""Bytes of all; beyond, those used the longest ago go. An upload counts as what it will have."""
KEPT = timedelta(minutes=5)
"""A file is not removed so long after its last use: somebody is about to make a model of it."""
BROKEN_AFTER = timedelta(minutes=1)
"""An upload that no process holds so long after its last byte goes on no more."""
_AT_ONCE = 1 << 20
"""Bytes that are written together, in a thread."""

_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})", re.IGNORECASE)
_PART = ".part"


class Blobs:
    """Keeps uploaded files in ``directory``; several workers may share it."""

    def __init__(
        self, *, directory: Path, max_blob: int = MAX_BLOB, max_together: int = MAX_TOGETHER
    ) -> None:
        self._directory = directory
        self._max_blob = max_blob
        self._max_together = max_together

    def find(self, digest: str) -> Path | None:
        """Return the file with a digest such as ``sha256:…``; raise `Reject` if it is none."""
        file = self._directory / _hex(digest)
        try:
            os.utime(file)
        except FileNotFoundError:
            return None
        return file

    async def store(
        self, digest: str, parts: AsyncIterator[bytes], *, nbytes: int | None = None
    ) -> Path:
        """Store a file as it comes.

        Parameters
        ----------
        nbytes
            What it will have, if that is known; if not, there has to be room for the largest.

        Raises
        ------
        Reject
            (invalid_request) if its hash is another one, (payload_too_large).
        Refused
            (mesh_full) if there might be no room for it beside other uploads and files in use.
        """
        wanted = _hex(digest)
        partial = self._directory / f"{wanted}.{secrets.token_hex(4)}{_PART}"
        reserved = self._max_blob if nbytes is None else min(nbytes, self._max_blob)
        with _begun(partial, reserved) as file:
            await asyncio.to_thread(self._make_room)
            found = await self._receive(file, parts)
            if found != wanted:
                why = f"digest mismatch, expected sha256:{wanted}, got sha256:{found}"
                raise Reject(Code.INVALID_REQUEST, why)
            return partial.rename(self._directory / wanted)

    async def skip(self, parts: AsyncIterator[bytes]) -> None:
        """Read a file that is there: who is not listened to would see a broken connection.

        Raises
        ------
        Reject
            (payload_too_large) if it is larger than any file may be.
        """
        size = 0
        async for part in parts:
            size += len(part)
            self._require_size(size)

    def _require_size(self, size: int) -> None:
        if size > self._max_blob:
            raise Reject(Code.PAYLOAD_TOO_LARGE, f"A file has at most {self._max_blob:,} bytes.")

    async def _receive(self, file: BinaryIO, parts: AsyncIterator[bytes]) -> str:
        hashed, size, held = hashlib.sha256(), 0, bytearray()

        def write(content: bytes) -> None:
            hashed.update(content)
            file.write(content)

        async for part in parts:
            size += len(part)
            self._require_size(size)
            held += part
            if len(held) >= _AT_ONCE:
                await asyncio.to_thread(write, bytes(held))
                held.clear()
        await asyncio.to_thread(write, bytes(held))
        await asyncio.to_thread(file.truncate, size)
        return hashed.hexdigest()

    def _make_room(self) -> None:
        """Remove what broken uploads left, and old files until there is room for those begun."""
        now = time.time()
        left = -self._max_together
        old: list[tuple[float, int, Path]] = []
        for file in self._directory.iterdir():
            with suppress(FileNotFoundError):  # another worker was quicker
                stat = file.stat()
                age = timedelta(seconds=now - stat.st_mtime)
                if file.suffix == _PART and age > BROKEN_AFTER and not _is_held(file):
                    file.unlink()
                    continue
                left += stat.st_size
                if file.suffix != _PART and age > KEPT:
                    old.append((stat.st_mtime, stat.st_size, file))
        if left > sum(size for _, size, _ in old):
            why = "There is no room beside the files that are being uploaded or used; try again."
            raise Refused(Code.MESH_FULL, why)
        for _, size, file in sorted(old):
            if left > 0:
                file.unlink(missing_ok=True)
                left -= size


@contextmanager
def _begun(partial: Path, nbytes: int) -> Iterator[BinaryIO]:
    """Yield a new file that this process holds, and remove it unless it is renamed.

    It is opened once: a thread that writes on after a cancellation makes it no second time. Its
    length tells all workers what is reserved; the disk has only what was written.
    """
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("xb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.truncate(nbytes)
            yield file
    finally:
        partial.unlink(missing_ok=True)


def _is_held(partial: Path) -> bool:
    """Say whether the process that uploads is alive: its lock ends with it."""
    with partial.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _hex(digest: str) -> str:
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise Reject(Code.INVALID_REQUEST, f"{digest[:100]!r} is no digest such as sha256:….")
    return match[1].lower()
