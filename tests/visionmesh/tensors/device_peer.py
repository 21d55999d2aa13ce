"""The other process: a writer or a reader of a GPU's memory that is told what to do."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np

from visionmesh.contracts import CudaLocation
from visionmesh.errors import Miss
from visionmesh.gpu import open_gpu
from visionmesh.gpu.copier import Copier
from visionmesh.tensors import DeviceArena, DeviceReader

SHM = Path("/dev/shm")
SLOT = 4096


def answer(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def write(device: str, name: str) -> None:
    """Commit a payload of the wanted bytes for each line; leave another one written in full."""
    gpu = open_gpu(device)
    copier = Copier(gpu)
    with DeviceArena(
        gpu=gpu,
        directory=SHM,
        name=name,
        size=8 * SLOT,
        slot_bytes=SLOT,
        lease=timedelta(hours=1),
    ) as arena:
        for line in sys.stdin:
            payload = np.frombuffer(bytes.fromhex(line), np.uint8)
            slot, uncommitted = arena.reserve(payload.size), arena.reserve(payload.size)
            assert slot is not None
            assert uncommitted is not None
            copier.copy([(payload, slot.device), (payload, uncommitted.device)])
            answer(slot.commit().model_dump())


def read(release: str) -> None:
    """Answer with the payload of each location, or with why it misses; release it if told so."""
    reader = DeviceReader(directory=SHM, on_refused=lambda uuid, why: None)
    for line in sys.stdin:
        try:
            reading = reader.read(CudaLocation.model_validate_json(line))
            payload = bytes(reading.view)
            reading.check()
        except Miss as miss:
            answer(miss.message)
            continue
        answer(payload.hex())
        if release == "release":
            reading.release()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", device, name]:
            write(device, name)
        case ["read", release]:
            read(release)
