"""Engines from the mesh's files: opened, warmed without disturbing others, freed if that fails."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from services.infer.cores import usable_cores
from services.infer.engines import Engine, open_engines
from services.infer.memory import Meter, NoRoom
from services.infer.ways import Way, choose_way, plain_way
from visionmesh.cpu import cpu_features
from visionmesh.errors import ConfigurationError, Refused
from visionmesh.gpu.gpu import GpuMemoryError
from visionmesh.models.artifacts import forget_files
from visionmesh.models.record import ModelRecord
from visionmesh.models.registry import Registry
from visionmesh.models.spec import ModelSpec

_NICE = 10
"""Of the thread that warms: a tenth of a core that is wanted elsewhere, all of an idle one."""
_STATM = Path("/proc/self/statm")

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """All engines of a version, warm."""

    way: Way
    engines: tuple[Engine, ...]
    memory: int
    """By how many bytes the process grew for them."""
    device_memory: Mapping[str, int] = field(default_factory=dict)
    """How many bytes they took of each GPU that they run on, by its UUID."""


class Loader:
    """Downloads in parallel, but loads one version at a time: what each one takes can be told."""

    def __init__(self, *, registry: Registry, directory: Path) -> None:
        self._registry = registry
        self._directory = directory
        self._features = cpu_features()
        self._alone = asyncio.Lock()
        # A thread cannot become less nice again, so it is one of its own.
        self._quiet = ThreadPoolExecutor(1, thread_name_prefix="warm", initializer=_be_nice)

    async def load(self, record: ModelRecord, version: int) -> Loaded:
        """Return the version's engines; where a faster way does not work here, the plain one's.

        Raises
        ------
        ConfigurationError
            (model_invalid) if it cannot be loaded or warmed; nothing is kept of it then.
        Refused, Retry
            If its file cannot be had.
        NoRoom
            If a GPU has too little free memory; nothing is kept of it then either.
        """
        spec, stored = record.spec_of(version), record.version(version)
        cores = usable_cores()
        way = choose_way(spec, stored, features=self._features, cores=cores)
        try:
            return await self._follow(way, spec)
        except (ConfigurationError, Refused) as error:
            if way.plain:
                raise
            log.warning("version %d of %s runs as it was: %s", version, spec.name, error)
            plain = plain_way(spec, stored, cores=cores, why="the faster way does not work here")
            return await self._follow(plain, spec)

    async def _follow(self, way: Way, spec: ModelSpec) -> Loaded:
        weights = await self._registry.fetch(way.sha256, directory=self._directory)
        async with self._alone:
            before = _resident_bytes()
            meter = await asyncio.to_thread(Meter, [one.instance.device for one in way.copies])
            engines: list[Engine] = []
            try:
                for copies in way.copies:
                    # Threads that an engine starts must not be born nice: they serve later.
                    opened = asyncio.to_thread(
                        open_engines,
                        weights,
                        spec,
                        copies.instance,
                        count=copies.count,
                        engine=copies.engine,
                        precision=way.precision,
                    )
                    engines.extend(await opened)
                await asyncio.get_running_loop().run_in_executor(self._quiet, _warm, engines)
            except BaseException as error:
                close_all(engines)
                if isinstance(error, GpuMemoryError):
                    raise NoRoom(str(error), gpus=meter.gpus) from error
                raise
            memory = max(_resident_bytes() - before, 0)
            device_memory = await asyncio.to_thread(meter.taken)
        return Loaded(way=way, engines=tuple(engines), memory=memory, device_memory=device_memory)

    async def forget(self, hashes: Iterable[str]) -> None:
        """Delete the files of versions that the mesh does not have any more from this node."""
        await asyncio.to_thread(forget_files, self._directory, hashes)

    def close(self) -> None:
        self._quiet.shutdown(wait=False)


def close_all(engines: Iterable[Engine]) -> None:
    for engine in engines:
        engine.close()


def _warm(engines: Iterable[Engine]) -> None:
    for engine in engines:
        engine.warm()


def _be_nice() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


def _resident_bytes() -> int:
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
