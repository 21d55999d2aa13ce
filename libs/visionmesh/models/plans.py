"""What engines have built of networks, for all nodes alike: keys in the KV bucket `vm_plans`.

The files lie with those of the models in the object store, under their own SHA-256.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path

from nats.aio.client import Client
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue
from pydantic import ValidationError

from visionmesh.bus.bucket import Bucket
from visionmesh.contracts import Frozen
from visionmesh.errors import Refused
from visionmesh.models.artifacts import ArtifactStore, file_sha256
from visionmesh.subjects import PLANS_BUCKET


class _Entry(Frozen):
    sha256: str
    """Of the plan's bytes."""


class Plans:
    """Finds, stores and forgets plans.

    A plan's key is the SHA-256 of the network that it was built of, a dot, and a token that differs
    with everything else that matters. Several nodes may build the same at once: what is stored
    first is what all others find.
    """

    def __init__(self, nc: Client, *, artifacts: ArtifactStore, replicas: int = 1) -> None:
        self._bucket = Bucket(nc, PLANS_BUCKET, replicas=replicas)
        self._artifacts = artifacts

    async def fetch(self, key: str, directory: Path) -> Path | None:
        """Return the plan's file in ``directory``, verified; `None` if nobody has stored one.

        Raises
        ------
        Retry
            If the download failed.
        """
        entry = await _entry(await self._bucket.open(), key)
        if entry is None:
            return None
        try:
            return await self._artifacts.fetch(entry.sha256, directory)
        except Refused:  # it was forgotten in between
            return None

    async def store(self, key: str, file: Path, *, instead_of: str | None = None) -> bool:
        """Store ``file`` as the plan of ``key``; return false if another one was quicker.

        The one with the SHA-256 ``instead_of`` is replaced: it is of no use.

        Raises
        ------
        Retry
            If it was not stored whole.
        """
        bucket = await self._bucket.open()
        sha256 = await asyncio.to_thread(file_sha256, file)
        before = await _entry(bucket, key)
        if before is not None:
            useless = before.sha256 == instead_of != sha256
            if not useless and await self._artifacts.has(before.sha256):
                return False
            await bucket.delete(key)
            if useless:
                await self._artifacts.delete(before.sha256)
        if not await self._artifacts.has(sha256):
            await self._artifacts.put(sha256, file)
        try:
            await bucket.create(key, _Entry(sha256=sha256).model_dump_json().encode())
        except KeyWrongLastSequenceError:
            first = await _entry(bucket, key)
            if first is None or first.sha256 != sha256:
                await self._artifacts.delete(sha256)
            return False
        return True

    async def forget_all_but(self, networks: Collection[str]) -> tuple[set[str], set[str]]:
        """Forget the plans of all but these networks.

        Returns
        -------
        The SHA-256 of the files that are still wanted, and of those that nobody wants any more.
        """
        if not await self._bucket.exists():
            return set(), set()
        bucket = await self._bucket.open()
        kept, forgotten = set(), set()
        async for message in self._bucket.stored():
            if (entry := _parsed(message.data)) is None:
                continue
            key = str(message.subject).removeprefix(f"$KV.{PLANS_BUCKET}.")
            if key.partition(".")[0] in networks:
                kept.add(entry.sha256)
            else:
                forgotten.add(entry.sha256)
                await bucket.delete(key)
        return kept, forgotten


async def _entry(bucket: KeyValue, key: str) -> _Entry | None:
    try:
        return _parsed((await bucket.get(key)).value)
    except KeyNotFoundError:
        return None


def _parsed(value: bytes | None) -> _Entry | None:
    """Return what is stored; `None` for the mark of a removal, and what another release wrote."""
    try:
        return _Entry.model_validate_json(value or b"")
    except ValidationError:
        return None
