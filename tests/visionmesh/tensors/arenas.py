"""Small arenas in the real shared memory and in a GPU's."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np

from visionmesh.contracts import CudaLocation, ShmLocation
from visionmesh.gpu import Gpu
from visionmesh.gpu.copier import Copier
from visionmesh.tensors import DeviceArena, ShmArena

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


def open_arena(gpu: Gpu, name: str, *, lease: timedelta = HOUR, slots: int = SLOTS) -> DeviceArena:
    return DeviceArena(
        gpu=gpu, directory=SHM, name=name, size=slots * SLOT, slot_bytes=SLOT, lease=lease
    )


def lay(arena: DeviceArena, payload: bytes) -> CudaLocation:
    slot = arena.reserve(len(payload))
    assert slot is not None
    Copier(arena.gpu).copy([(np.frombuffer(payload, np.uint8), slot.device)])
    return slot.commit()
