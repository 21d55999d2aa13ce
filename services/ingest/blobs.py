"""Files that clients upload before they make a model of them, by their SHA-256."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from visionmesh.errors import Code, Refused, Reject

MAX_BLOB = 2 << 30
"""Bytes of one file."""
MAX_TOGETHER = 8 << 30
"""Bytes of all; beyond, those used the longest ago go. An upload counts as `max_blob` bytes."""
BROKEN_AFTER = timedelta(hours=1)
"""An upload to which nothing was added for so long goes on no more."""
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

    async def store(self, digest: str, parts: AsyncIterator[bytes]) -> Path:
        """Store a file as it comes.

        Raises
        ------
        Reject
            (invalid_request) if its hash is another one, (payload_too_large).
        Refused
            (mesh_full) if so many files are being uploaded that there might be no room for it.
        """
        wanted = _hex(digest)
        partial = self._directory / f"{wanted}.{secrets.token_hex(4)}{_PART}"
        try:
            await asyncio.to_thread(self._make_room, partial)
            found = await self._receive(partial, parts)
            if found != wanted:
                why = f"digest mismatch, expected sha256:{wanted}, got sha256:{found}"
                raise Reject(Code.INVALID_REQUEST, why)
            return partial.rename(self._directory / wanted)
        finally:
            partial.unlink(missing_ok=True)

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

    async def _receive(self, partial: Path, parts: AsyncIterator[bytes]) -> str:
        hashed, size, held = hashlib.sha256(), 0, bytearray()

        def write(content: bytes) -> None:
            hashed.update(content)
            with partial.open("ab") as file:
                file.write(content)

        async for part in parts:
            size += len(part)
            self._require_size(size)
            held += part
            if len(held) >= _AT_ONCE:
                await asyncio.to_thread(write, bytes(held))
                held.clear()
        await asyncio.to_thread(write, bytes(held))
        return hashed.hexdigest()

    def _make_room(self, partial: Path) -> None:
        """Begin an upload; remove what broken ones left, and old files until it has room."""
        self._directory.mkdir(parents=True, exist_ok=True)
        partial.touch()  # first, so that of two that begin together each sees the other
        horizon = time.time() - BROKEN_AFTER.total_seconds()
        files: list[tuple[float, int, Path]] = []
        for file in self._directory.iterdir():
            with suppress(FileNotFoundError):  # another worker was quicker
                stat = file.stat()
                if file.suffix == _PART and stat.st_mtime < horizon:
                    file.unlink()
                else:
                    files.append((stat.st_mtime, stat.st_size, file))
        whole = sorted(one for one in files if one[2].suffix != _PART)
        left = (len(files) - len(whole)) * self._max_blob - self._max_together
        if left > 0:
            raise Refused(Code.MESH_FULL, "Too many files are being uploaded; try again.")
        left += sum(size for _, size, _ in whole)
        for _, size, file in whole:
            if left > 0:
                file.unlink(missing_ok=True)
                left -= size


def _hex(digest: str) -> str:
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise Reject(Code.INVALID_REQUEST, f"{digest[:100]!r} is no digest such as sha256:….")
    return match[1].lower()
