"""How long it takes to hand a tensor that lies on a GPU to another process.

    python -m bench.gpu.handover

The writer copies 1.2 MB into a slot of its arena, waits for its stream, commits and tells the
location; the reader resolves it, copies the tensor away, waits, checks, releases and answers. All
goes by a pipe; what the pipe alone takes there and back, with a message of that length, is
subtracted. Every payload is another one, and the reader tells a byte of what it saw.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np

from bench.gpu.figures import Figure, options
from bench.gpu.machine import ceilings
from visionmesh.contracts import CudaLocation
from visionmesh.gpu import Gpu, open_gpu
from visionmesh.gpu.copier import Copier
from visionmesh.tensors import DeviceArena, DeviceReader

_SHM = Path("/dev/shm")
_NBYTES = 640 * 640 * 3
_PAYLOADS = 8


class Peer:
    """The reader, in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, line: str) -> str:
        """Return its answer to a line."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()


@contextmanager
def peer(device: str) -> Iterator[Peer]:
    command = [sys.executable, "-m", "bench.gpu.handover", "--device", device, "--read"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as it:
        yield Peer(it)
        assert it.stdin is not None
        it.stdin.close()


def read(device: str) -> None:
    """Answer each location with the first byte there, and all else with itself."""
    gpu = open_gpu(device)
    copier, own = Copier(gpu), gpu.xp.empty(_NBYTES, np.uint8)
    first = gpu.pinned(1)
    reader = DeviceReader(directory=_SHM, on_refused=lambda uuid, why: sys.exit(f"{uuid}: {why}"))
    for line in sys.stdin:
        answer = line.strip()
        if answer.startswith("{"):
            reading = reader.read(CudaLocation.model_validate_json(answer))
            copier.copy([(reading.device, own), (reading.device[:1], first)])
            reading.check()
            reading.release()
            answer = str(first[0])
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


def measure(gpu: Gpu, arena: DeviceArena, other: Peer, *, count: int) -> tuple[float, float]:
    """Return the medians of a hand-over and of the pipe alone, in seconds."""
    copier = Copier(gpu)
    with gpu.stream() as stream:
        payloads = [gpu.xp.full(_NBYTES, number, np.uint8) for number in range(_PAYLOADS)]
        stream.synchronize()
    times = []
    for turn in range(count):
        number = turn % _PAYLOADS
        began = time.perf_counter()
        slot = arena.reserve(_NBYTES)
        assert slot is not None
        copier.copy([(payloads[number], slot.device)])
        location = slot.commit().model_dump_json()
        seen = other.ask(location)
        handed = time.perf_counter()
        other.ask("x" * len(location))
        times.append((handed - began, time.perf_counter() - handed))
        assert seen == str(number), f"the reader saw {seen!r}"
    handed_over, alone = np.median(times[count // 10 :], axis=0)
    return float(handed_over), float(alone)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--read", action="store_true", help="be the reader")
    arguments = parser.parse_args()
    if arguments.read:
        read(arguments.device)
        return
    gpu = open_gpu(arguments.device)
    arena = DeviceArena(
        gpu=gpu,
        directory=_SHM,
        name=f"visionmesh-bench-{secrets.token_hex(4)}",
        size=16 << 20,
        slot_bytes=2 << 20,
        lease=timedelta(minutes=1),
    )
    with arena, peer(arguments.device) as other:
        handed, alone = measure(gpu, arena, other, count=50 if arguments.tiny else 2000)
    copies = 2 * 2 * _NBYTES / ceilings(gpu, tiny=arguments.tiny).bytes_per_s
    Figure(
        what="hand-over of 1.2 MB between two processes, beyond the pipe, p50",
        value=(handed - alone) * 1e3,
        unit="ms",
        at_most=0.2,
        floor=f"{copies * 1e6:.1f} µs for its two copies",
        note=f"{handed * 1e3:.3f} ms there and back, of which the pipe is {alone * 1e3:.3f}; "
        "with a copy and a wait on either side",
    ).tell()


if __name__ == "__main__":
    main()
