"""A worker's part in the memory of GPUs: what it shares with others, and what it reads there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path

from visionmesh.coalescer import Coalescer
from visionmesh.contracts import TensorMeta
from visionmesh.errors import ConfigurationError
from visionmesh.gpu import Gpu, GpuError
from visionmesh.gpu.copier import Copier
from visionmesh.gpu.failures import lost
from visionmesh.gpu.gpu import GpuLostError, GpuMemoryError
from visionmesh.handover import Outputs, lay_out_all
from visionmesh.nodes import Nodes
from visionmesh.telemetry.metrics import Metrics
from visionmesh.tensors import DeviceArena, Slot

MAX_AT_ONCE = 256
"""Images that are laid out together: more than any batch has."""

AGAIN = timedelta(seconds=30)
"""Before a device that had too little memory is asked again: a model may have been unloaded."""

log = logging.getLogger(__name__)

_Job = tuple[Outputs, Slot]
_Metas = tuple[TensorMeta, ...]


class DeviceMemory:
    """The arenas of one worker on GPUs.

    Where a device has no such arena, that is said once, and payloads go through the memory of the
    host: for good if memory cannot be shared here (containers that do not share IPC, some slices of
    GPUs, Jetson), until the next try if there is too little of it.
    """

    def __init__(
        self,
        *,
        directory: Path,
        prefix: str,
        size: int,
        lease: timedelta,
        nodes: Nodes,
        metrics: Metrics,
    ) -> None:
        self._directory = directory
        self._prefix = prefix
        self._size = size
        self._lease = lease
        self._nodes = nodes
        self._metrics = metrics
        self._arenas: dict[str, asyncio.Task[DeviceArena | None]] = {}
        self._lines: dict[str, Coalescer[_Job, _Metas]] = {}
        self._without: set[str] = set()
        """The devices of which it was said that they had no arena."""
        self._read: set[str] = set()
        self._refused: set[str] = set()
        self._telling: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    async def read(self, gpus: Iterable[Gpu]) -> None:
        """Tell the other workers that this one reads from the memory of ``gpus``, too."""
        more = {gpu.info.uuid for gpu in gpus} - self._read
        if more:
            self._read |= more
            await self._tell()

    def refuse(self, uuid: str, why: str) -> None:
        """Tell them from any thread that a device's memory cannot be mapped here after all."""
        log.warning(
            "what others put into the memory of %s cannot be mapped here, "
            "and is to come through that of the host: %s", uuid, why,
        )  # fmt: skip
        self._loop.call_soon_threadsafe(self._withdraw, uuid)

    def _withdraw(self, uuid: str) -> None:
        self._refused.add(uuid)
        task = self._loop.create_task(self._tell(), name="tell devices")
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _tell(self) -> None:
        await self._nodes.update(devices=tuple(sorted(self._read - self._refused)))

    async def open(self, gpu: Gpu) -> None:
        """Make this worker's arena on ``gpu`` ready: weights may take what memory there is.

        Raises
        ------
        Fatal
            If the device is lost to this process.
        """
        await asyncio.shield(self._opening(gpu))

    def arena(self, gpu: Gpu) -> DeviceArena | None:
        """Return this worker's arena on ``gpu``; `None` if there is none now.

        One that was not opened is opened by this, and there is none until that is done.

        Raises
        ------
        Fatal
            If the device is lost to this process.
        """
        opening = self._opening(gpu)
        return opening.result() if opening.done() else None

    def _opening(self, gpu: Gpu) -> asyncio.Task[DeviceArena | None]:
        uuid = gpu.info.uuid
        if uuid not in self._arenas:
            self._arenas[uuid] = asyncio.create_task(self._open(gpu), name="open device arena")
        return self._arenas[uuid]

    async def _open(self, gpu: Gpu) -> DeviceArena | None:
        try:
            # Allocating waits for what the device has to do.
            arena = await asyncio.to_thread(
                DeviceArena,
                gpu=gpu,
                directory=self._directory,
                name=f"{self._prefix}{secrets.token_hex(4)}",
                size=self._size,
                lease=self._lease,
            )
        except GpuLostError as error:
            raise lost(error) from error
        except (GpuError, ConfigurationError) as error:
            self._do_without(gpu.info.uuid, error)
            return None
        self._metrics.watch_device_arena(
            used=lambda: arena.used_bytes, capacity=arena.capacity, device=gpu.info.uuid
        )
        return arena

    def _do_without(self, uuid: str, why: Exception) -> None:
        if isinstance(why, GpuMemoryError):
            self._loop.call_later(AGAIN.total_seconds(), self._arenas.pop, uuid)
        if uuid not in self._without:
            self._without.add(uuid)
            log.warning(
                "the memory of %s cannot be shared with other workers, "
                "payloads go through that of the host: %s", uuid, why,
            )  # fmt: skip

    async def lay_out(self, gpu: Gpu, outputs: Outputs, slot: Slot) -> tuple[TensorMeta, ...]:
        """Write ``outputs`` into ``slot``, either of which may be in the memory of ``gpu``.

        What is asked for in one turn of the event loop is waited for together, in a thread. A
        cancelled call ends when its copy is over: until then nobody else may have the slot.
        """
        line = self._lines.get(gpu.info.uuid)
        if line is None:
            line = self._lines[gpu.info.uuid] = _line(Copier(gpu))
        laid_out = line.submit((outputs, slot))
        try:
            return await asyncio.shield(laid_out)
        except asyncio.CancelledError:
            # Who is ended is cancelled again and again.
            while not laid_out.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait((laid_out,))
            raise

    async def close(self) -> None:
        """Give everything back; references to it miss from now on."""
        for line in self._lines.values():
            await line.close()
        for opening in tuple(self._arenas.values()):
            await asyncio.wait((opening,))
            if opening.exception() is None and (arena := opening.result()) is not None:
                arena.close()
        if self._telling:
            await asyncio.wait(self._telling)


def _line(copier: Copier) -> Coalescer[_Job, _Metas]:
    async def copy(jobs: Sequence[_Job]) -> Sequence[_Metas]:
        return await asyncio.to_thread(lay_out_all, jobs, copier)

    return Coalescer(process=copy, max_items=MAX_AT_ONCE)
