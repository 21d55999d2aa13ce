"""Sending references on: what is at hand for one subject goes into one message."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from visionmesh.bundle import Parcel, encode, split
from visionmesh.bus import Publisher
from visionmesh.coalescer import Coalescer
from visionmesh.contracts import InlineLocation, Location, Reference
from visionmesh.tensors import Slot
from visionmesh.trail import Trail

MAX_REFERENCES = 8
LINGER_SHARE = 4
"""Of the engines' backlog, the part for which a reference is held back; with three such waits on
the way the engines never run out of work."""
LINGER_LIMIT = timedelta(milliseconds=100)
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


Onward = tuple[Reference, Forward, Trail]


class Outbox:
    """Publishes references in bundles, one bundle at a time for each subject.

    What arrives for a subject while its last bundle is being confirmed makes up the next one.
    Only when the engines of a model have a ``backlog`` is a reference held back for company: it
    would wait there anyway, and a message for several costs hardly more than for one.
    """

    def __init__(self, *, publisher: Publisher, backlog: Callable[[str], timedelta]) -> None:
        self._publisher = publisher
        self._backlog = backlog
        self._lines: dict[str, Coalescer[Parcel, None]] = {}

    async def pass_on(self, images: Sequence[Onward]) -> None:
        """Return when the next stage's stream holds the images."""
        now = time.time_ns()
        held = []
        for reference, onward, trail in images:
            changes = {
                **onward.changes,
                "location": onward.location,
                "sent_ns": now,
                "timings": {**reference.timings, **trail.timings(now)},
            }
            line = self._lines.get(onward.subject)
            if line is None:
                line = self._lines[onward.subject] = self._open(onward.subject)
            parcel = Parcel(reference.model_copy(update=changes), onward.payload)
            held.append(line.submit(parcel))
        for future in held:
            await future
        for _, onward, trail in images:
            trail.sent(onward.stream, now)

    def _open(self, subject: str) -> Coalescer[Parcel, None]:
        model = subject.split(".")[2]

        async def publish(parcels: Sequence[Parcel]) -> list[None]:
            for part in split(parcels, max_bytes=MAX_PAYLOAD):
                await self._publisher.publish(subject, encode(part))
            return [None] * len(parcels)

        return Coalescer(
            process=publish,
            max_items=MAX_REFERENCES,
            linger=lambda: min(self._backlog(model) / LINGER_SHARE, LINGER_LIMIT).total_seconds(),
        )

    async def close(self) -> None:
        """Send what waits."""
        await asyncio.gather(*(line.close() for line in self._lines.values()))
