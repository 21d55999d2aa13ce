"""Writers and readers of a GPU's memory that are killed at random: is anything wrong ever believed?

    python tests/visionmesh/tensors/device_soak.py cuda --seconds 60

Writers fill slots with a pattern that follows from the slot's generation. Readers, some of them
slower than the lease lasts, copy what they find, and compare what `check` has let pass with it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import secrets
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visionmesh.contracts import CudaLocation
from visionmesh.errors import Miss
from visionmesh.gpu import open_gpu
from visionmesh.gpu.copier import Copier
from visionmesh.tensors import DeviceArena, DeviceReader, reap

SHM = Path("/dev/shm")
PAYLOAD = 1 << 20
SLOTS = 8
LEASE = timedelta(milliseconds=20)
SLOW = timedelta(milliseconds=30)
"""What a slow reader takes: longer than the lease, so its slot may be given away meanwhile."""
PATIENCE = timedelta(seconds=10)
WRITERS = READERS = 2
MOST_WAITING = 4
"""Locations that wait for a reader; older ones would be stale anyway."""

_STEPS = np.arange(PAYLOAD // 4, dtype=np.uint32) * np.uint32(2654435761)


def pattern(generation: int) -> NDArray[np.uint32]:
    """Return what a slot of that generation holds, unlike that of any other at every word."""
    return _STEPS + np.uint32(generation * 40503 & 0xFFFFFFFF)


async def write(device: str, name: str) -> None:
    """Commit payloads for ever, and tell where they are."""
    gpu = open_gpu(device)
    copier = Copier(gpu)
    with DeviceArena(
        gpu=gpu, directory=SHM, name=name, size=SLOTS * PAYLOAD, slot_bytes=PAYLOAD, lease=LEASE
    ) as arena:
        while True:
            with await arena.acquire(PAYLOAD, timeout=PATIENCE) as slot:
                assert slot.device is not None
                copier.copy([(pattern(slot.generation).view(np.uint8), slot.device)])
                _say(slot.commit().model_dump_json())


def read() -> None:
    """Say of each location what became of reading it: missed, stale, right or wrong."""
    reader = DeviceReader(directory=SHM, on_refused=lambda uuid, why: _say(f"refused {uuid} {why}"))
    for line in sys.stdin:
        location = CudaLocation.model_validate_json(line)
        try:
            reading = reader.read(location)
        except Miss:
            _say("missed")
            continue
        if random.random() < 1 / 3:
            time.sleep(SLOW.total_seconds())
        seen = np.frombuffer(reading.view, np.uint32)
        try:
            reading.check()
        except Miss:
            _say("stale")
            continue
        reading.release()
        _say("right" if np.array_equal(seen, pattern(location.generation)) else "wrong")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Soak:
    """Keeps writers and readers running, kills one of them now and then, and counts.

    ``counts`` has what the readers said (see `read`), and ``kills``.
    """

    def __init__(self, device: str) -> None:
        self.counts: Counter[str] = Counter()
        self._device = device
        self._prefix = f"visionmesh-soak-{os.getpid()}-"
        self._locations: asyncio.Queue[bytes] = asyncio.Queue()
        self._heard: set[Process] = set()
        self._talking: list[Process] = []

    async def run(
        self,
        duration: timedelta,
        *,
        pause: timedelta,
        enough: Callable[[Counter[str]], bool] = lambda _: False,
    ) -> None:
        """Run until ``enough`` holds of the counts, for ``duration`` at most.

        A process that has said something is killed every ``pause`` on the average.
        """
        roles = [*[self._keep_writing] * WRITERS, *[self._keep_reading] * READERS]
        running = [asyncio.create_task(role()) for role in roles]
        try:
            async with asyncio.timeout(duration.total_seconds()):
                while not enough(self.counts):
                    await self._kill(pause)
        except TimeoutError:
            pass
        for task in running:
            task.cancel()
        # What ended before it was cancelled has failed.
        for ended in await asyncio.gather(*running, return_exceptions=True):
            if not isinstance(ended, asyncio.CancelledError):
                raise RuntimeError("a role ended") from ended
        reap(SHM, prefix=self._prefix)

    async def _kill(self, pause: timedelta) -> None:
        await asyncio.sleep(random.uniform(0, 2) * pause.total_seconds())
        if self._talking:
            self._talking.pop(random.randrange(len(self._talking))).kill()
            self.counts["kills"] += 1

    async def _keep_writing(self) -> None:
        while True:
            async with self._process("--write", self._prefix + secrets.token_hex(4)) as writer:
                while line := await self._line(writer):
                    if self._locations.qsize() == MOST_WAITING:
                        self._locations.get_nowait()
                    self._locations.put_nowait(line)

    async def _keep_reading(self) -> None:
        while True:
            async with self._process("--read") as reader:
                said = b"began"
                while said:
                    assert reader.stdin is not None
                    reader.stdin.write(await self._locations.get())
                    said = await self._line(reader)
                    self.counts[said.decode().strip() or "lost"] += 1

    @asynccontextmanager
    async def _process(self, *role: str) -> AsyncIterator[Process]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, self._device, *role, stdin=PIPE, stdout=PIPE
        )
        try:
            yield process
        finally:
            self._talking = [other for other in self._talking if other is not process]
            with suppress(ProcessLookupError):
                process.kill()
            await process.communicate()

    async def _line(self, process: Process) -> bytes:
        assert process.stdout is not None
        line = await process.stdout.readline()
        if line and process not in self._heard:
            self._heard.add(process)
            self._talking.append(process)
        return line


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("device")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--write", metavar="ARENA")
    parser.add_argument("--read", action="store_true")
    told = parser.parse_args()
    if told.write:
        asyncio.run(write(told.device, told.write))
    elif told.read:
        read()
    else:
        soak = Soak(told.device)
        asyncio.run(soak.run(timedelta(seconds=told.seconds), pause=timedelta(seconds=1)))
        _say(json.dumps(soak.counts))
        return int(soak.counts["wrong"] > 0 or not soak.counts["right"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
