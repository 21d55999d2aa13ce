"""Small arenas in the real shared memory."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from visionmesh.contracts import ShmLocation
from visionmesh.tensors import ShmArena

SHM = Path("/dev/shm")
SLOT = 4096
SLOTS = 8
HOUR = timedelta(hours=1)


def make_arena(name: str, *, lease: timedelta = HOUR, slots: int = SLOTS) -> ShmArena:
    return ShmArena(directory=SHM, name=name, size=slots * SLOT, slot_bytes=SLOT, lease=lease)


def put(arena: ShmArena, payload: bytes) -> ShmLocation:
    slot = arena.reserve(len(payload))
    assert slot is not None
    slot.view[:] = payload
    return slot.commit()
