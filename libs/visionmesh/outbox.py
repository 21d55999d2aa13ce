"""Sending references on: what is at hand for one subject goes into one message."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from visionmesh.bundle import Parcel, encode, split
from visionmesh.bus import Publisher
from visionmesh.coalescer import Coalescer
from visionmesh.contracts import InlineLocation, Location, Reference
from visionmesh.tensors import Slot
from visionmesh.trail import Trail

MAX_REFERENCES = 32
MAX_PAYLOAD = 4 << 20
"""Inline payload of one message; a larger single image still travels, alone."""


@dataclass(slots=True)
class Forward:
    """Where an image goes next: its payload's location, and what changes in the reference."""

    stream: str
    subject: str
    location: Location
    payload: bytes | None
    changes: dict[str, Any]


def forward(stream: str, subject: str, slot: Slot, **changes: Any) -> Forward:
    """Commit ``slot`` and return the `Forward` that sends it to ``subject``."""
    location = slot.commit()
    payload = bytes(slot.view) if isinstance(location, InlineLocation) else None
    return Forward(stream, subject, location, payload, changes)


class Outbox:
    """Publishes references in bundles, one bundle at a time for each subject.

    What arrives for a subject while its last bundle is being confirmed makes up the next one;
    nothing is ever held back for company.
    """

    def __init__(self, *, publisher: Publisher) -> None:
        self._publisher = publisher
        self._lines: dict[str, Coalescer[Parcel, None]] = {}

    async def pass_on(self, reference: Reference, onward: Forward, trail: Trail) -> None:
        """Return when the next stage's stream holds the image."""
        now = time.time_ns()
        changes = {
            **onward.changes,
            "location": onward.location,
            "sent_ns": now,
            "timings": {**reference.timings, **trail.timings(now)},
        }
        parcel = Parcel(reference.model_copy(update=changes), onward.payload)
        line = self._lines.get(onward.subject)
        if line is None:
            line = self._lines[onward.subject] = self._open(onward.subject)
        await line.submit(parcel)
        trail.sent(onward.stream, now)

    def _open(self, subject: str) -> Coalescer[Parcel, None]:
        async def publish(parcels: Sequence[Parcel]) -> list[None]:
            for part in split(parcels, max_bytes=MAX_PAYLOAD):
                await self._publisher.publish(subject, encode(part))
            return [None] * len(parcels)

        return Coalescer(process=publish, max_items=MAX_REFERENCES)

    async def close(self) -> None:
        """Send what waits."""
        await asyncio.gather(*(line.close() for line in self._lines.values()))
