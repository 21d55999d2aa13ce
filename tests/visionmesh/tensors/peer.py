"""The other process: a writer or a reader that is told what to do line by line, or churns."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

from visionmesh.contracts import ShmLocation
from visionmesh.tensors import ShmArena, ShmReader

SHM = Path("/dev/shm")
SLOT = 4096


def answer(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def write(name: str) -> None:
    """Commit a payload of the wanted bytes for each line; leave another one half written."""
    with ShmArena(
        directory=SHM, name=name, size=8 * SLOT, slot_bytes=SLOT, lease=timedelta(hours=1)
    ) as arena:
        for line in sys.stdin:
            payload = bytes.fromhex(line)
            slot, half = arena.reserve(len(payload)), arena.reserve(len(payload))
            assert slot is not None
            assert half is not None
            slot.view[:] = payload
            half.view[:1] = payload[:1]
            answer(slot.commit().model_dump())


def read(release: str) -> None:
    """Answer with the payload of each location, and release it if told so."""
    reader = ShmReader(directory=SHM)
    for line in sys.stdin:
        reading = reader.read(ShmLocation.model_validate_json(line))
        answer(bytes(reading.view).hex())
        reading.check()
        if release == "release":
            reading.release()


def churn(name: str, size: int) -> None:
    """Overwrite the whole arena for ever, each payload made of one repeated byte."""
    with ShmArena(
        directory=SHM, name=name, size=size, slot_bytes=size, lease=timedelta(0)
    ) as arena:
        for count in range(sys.maxsize):
            slot = arena.reserve(size)
            assert slot is not None
            slot.view[:] = bytes([count % 256]) * size
            location = slot.commit()
            if count % 50 == 0:
                answer(location.model_dump())


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", name]:
            write(name)
        case ["read", release]:
            read(release)
        case ["churn", name, nbytes]:
            churn(name, int(nbytes))
