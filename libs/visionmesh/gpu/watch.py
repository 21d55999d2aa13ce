"""Looks at the GPUs that a process may use for as long as it runs."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from visionmesh.gpu.listing import GpuListing, listing
from visionmesh.gpu.nvml import NoNvml, Nvml
from visionmesh.tasks import end

PERIOD = timedelta(seconds=5)
"""A look takes the driver milliseconds, and now and then much longer: not what a scrape, or the
loop that answers it, should wait for."""
_VISIBLE = "CUDA_VISIBLE_DEVICES"

log = logging.getLogger(__name__)


class GpuWatch:
    """Keeps what NVML last said; where there is none it says nothing.

    ``looked`` is awaited in the event loop after each look.
    """

    def __init__(
        self,
        *,
        looked: Callable[[], Awaitable[None]],
        period: timedelta = PERIOD,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._looked = looked
        self._period = period
        self._environment = environment
        # A single one: the driver is closed after a look that goes on, and not under it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="watch GPUs")
        self._nvml: Nvml | None = None
        self._task: asyncio.Task[None] | None = None
        self.seen: tuple[GpuListing, ...] = ()
        """The GPUs that this process may use."""

    async def start(self) -> None:
        """Look for the first time, and then again and again."""
        loop = asyncio.get_running_loop()
        try:
            self._nvml = await loop.run_in_executor(self._thread, Nvml)
        except NoNvml as error:
            log.debug("GPUs are not watched: %s", error)
            return
        await self._look(self._nvml)
        self._task = asyncio.create_task(self._look_always(self._nvml), name="watch GPUs")

    async def stop(self) -> None:
        if self._task is not None:
            await end([self._task])
            self._task = None
        if self._nvml is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._nvml.close)
            self._nvml = None
        self._thread.shutdown(wait=False)

    def unfit(self, uuids: Collection[str]) -> str | None:
        """Return why one of these GPUs, or of their slices, must not be used."""
        for gpu in self.seen:
            if not gpu.healthy and any(gpu.has(uuid) for uuid in uuids):
                return f"GPU {gpu.index} ({gpu.uuid}): {gpu.unfit}"
        return None

    async def _look_always(self, nvml: Nvml) -> None:
        while True:
            await asyncio.sleep(self._period.total_seconds())
            await self._look(nvml)

    async def _look(self, nvml: Nvml) -> None:
        found = await asyncio.get_running_loop().run_in_executor(self._thread, nvml.read)
        before = {gpu.uuid: gpu.unfit for gpu in self.seen}
        self.seen = usable(map(listing, found), self._environment)
        for gpu in self.seen:
            if gpu.unfit != before.get(gpu.uuid):
                _report(gpu)
        await self._looked()


def usable(gpus: Iterable[GpuListing], environment: Mapping[str, str]) -> tuple[GpuListing, ...]:
    """Return those that CUDA shows a process with this ``environment``; NVML shows all.

    Of a GPU of which only slices are visible, only these are left.
    """
    if _VISIBLE not in environment:
        return tuple(gpus)
    named = [name for name in environment[_VISIBLE].split(",") if name]
    found = []
    for gpu in gpus:
        slices = tuple(part for part in gpu.slices if part.uuid in named)
        # CUDA takes the beginning of a UUID, too.
        whole = any(
            name == str(gpu.index) or (name.startswith("GPU-") and gpu.uuid.startswith(name))
            for name in named
        )
        if whole:
            found.append(gpu)
        elif slices:
            found.append(gpu.model_copy(update={"slices": slices}))
    return tuple(found)


def _report(gpu: GpuListing) -> None:
    if gpu.unfit:
        log.error("GPU %d (%s) must not be used: %s", gpu.index, gpu.uuid, gpu.unfit)
    else:
        log.info("GPU %d is %s (%s), and healthy", gpu.index, gpu.name, gpu.uuid)
