"""Sending references on: what is at hand for one subject goes into one message."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from visionmesh.bundle import Parcel, encode, split
from visionmesh.bus import Publisher
from visionmesh.coalescer import Coalescer

MAX_REFERENCES = 32
MAX_PAYLOAD = 4 << 20
"""Inline payload of one message; a larger single image still travels, alone."""


class Outbox:
    """Publishes references in bundles, one bundle at a time for each subject.

    What arrives for a subject while its last bundle is being confirmed makes up the next one;
    nothing is ever held back for company.
    """

    def __init__(self, *, publisher: Publisher) -> None:
        self._publisher = publisher
        self._lines: dict[str, Coalescer[Parcel, None]] = {}

    async def send(self, subject: str, parcel: Parcel) -> None:
        """Return when the stream behind ``subject`` holds ``parcel``."""
        line = self._lines.get(subject)
        if line is None:
            line = self._lines[subject] = self._open(subject)
        await line.submit(parcel)

    def _open(self, subject: str) -> Coalescer[Parcel, None]:
        async def publish(parcels: Sequence[Parcel]) -> list[None]:
            for part in split(parcels, max_bytes=MAX_PAYLOAD):
                await self._publisher.publish(subject, encode(part))
            return [None] * len(parcels)

        return Coalescer(process=publish, max_items=MAX_REFERENCES)

    async def close(self) -> None:
        """Send what waits."""
        await asyncio.gather(*(line.close() for line in self._lines.values()))
