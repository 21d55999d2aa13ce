"""Heat-maps as PNGs in the object store `vm_heatmaps`: named by their SHA-256, kept for a day."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.js.object_store import ObjectStore
from pydantic_core import from_json

from visionmesh.bus.api import stored_message
from visionmesh.errors import Code, Retry, VisionmeshError

BUCKET = "vm_heatmaps"
AGE = timedelta(hours=24)
MAX_BYTES = 2 << 30
"""Of all heat-maps; the oldest give way. One of 256 by 256 pixels has about 30 KB."""

_STREAM = f"OBJ_{BUCKET}"
_STORE_WITHIN = timedelta(seconds=10)
_RETRY_DELAY = timedelta(seconds=1)


class HeatmapStore:
    """Stores PNGs once each, and finds them again."""

    def __init__(self, nc: Client, *, replicas: int = 1) -> None:
        self._nc = nc
        self._replicas = replicas
        self._store: ObjectStore | None = None

    async def store(self, png: bytes) -> str:
        """Return the SHA-256 of ``png`` as soon as the mesh has it for at least half of `AGE`.

        Raises
        ------
        Retry
            If the mesh does not take it now.
        """
        sha256 = hashlib.sha256(png).hexdigest()
        try:
            async with asyncio.timeout(_STORE_WITHIN.total_seconds()):
                if self._store is None:
                    self._store = await self._declare()
                if not _is_fresh(await _facts(self._nc, sha256)):
                    await self._store.put(sha256, png)
        except (nats.errors.Error, TimeoutError, OSError, VisionmeshError) as error:
            # A server that lost its disk has lost the bucket too.
            self._store = None
            raise Retry(
                f"The heat-map could not be stored: {error!r}.",
                delay=_RETRY_DELAY,
                code=Code.MESH_UNREACHABLE,
            ) from error
        return sha256

    async def fetch(self, sha256: str) -> bytes | None:
        """Return the PNG of that name, or `None` if it is gone.

        Raises
        ------
        Retry
            If the mesh does not answer now.
        """
        facts = await _facts(self._nc, sha256)
        if facts is None:
            return None
        subject, sequence, png = f"$O.{BUCKET}.C.{facts['nuid']}", 0, b""
        for _ in range(facts["chunks"]):
            message = await stored_message(
                self._nc, _STREAM, seq=sequence + 1, next_by_subj=subject
            )
            if message is None:
                return None
            sequence = int((message.headers or {})["Nats-Sequence"])
            png += message.data
        return png if hashlib.sha256(png).hexdigest() == sha256 else None

    async def _declare(self) -> ObjectStore:
        from visionmesh.bus.topology import ensure_stream  # noqa: PLC0415 - clients lack settings

        # Not by nats-py: its buckets refuse what is new once they are full, and with it a result.
        config = {
            "name": _STREAM,
            "subjects": [f"$O.{BUCKET}.C.>", f"$O.{BUCKET}.M.>"],
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            "max_age": int(AGE.total_seconds() * 1e9),
            "max_bytes": MAX_BYTES,
            "allow_rollup_hdrs": True,
            "allow_direct": True,
            "num_replicas": self._replicas,
        }
        await ensure_stream(self._nc, config)
        return await self._nc.jetstream().object_store(BUCKET)


async def _facts(nc: Client, sha256: str) -> dict[str, Any] | None:
    """Return what the bucket says of an object, or `None` if it has none of that name."""
    name = base64.urlsafe_b64encode(sha256.encode()).decode()
    message = await stored_message(nc, _STREAM, last_by_subj=f"$O.{BUCKET}.M.{name}")
    if message is None:
        return None
    facts: dict[str, Any] = from_json(message.data)
    return None if facts.get("deleted") else facts


def _is_fresh(facts: dict[str, Any] | None) -> bool:
    return facts is not None and datetime.now(UTC) - _stored_at(facts) < AGE / 2


def _stored_at(facts: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(facts["mtime"])
