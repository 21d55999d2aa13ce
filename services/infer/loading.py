"""Engines from the mesh's files: opened, warmed without disturbing others, freed if that fails."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import traceback
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from services.infer.engines import Engine, NoMemory, PlanStore, open_engines
from services.infer.memory import Meter, NoRoom
from services.infer.turns import turns_of
from services.infer.ways import Copies, Way, choose_way, plain_way
from visionmesh.cores import usable_cores
from visionmesh.cpu import cpu_features
from visionmesh.errors import Code, ConfigurationError, Refused
from visionmesh.models.artifacts import forget_files
from visionmesh.models.record import ModelRecord, VersionRecord
from visionmesh.models.registry import Registry
from visionmesh.models.spec import ModelSpec

_NICE = 10
"""Of the thread that warms: a tenth of a core that is wanted elsewhere, all of an idle one."""
_STATM = Path("/proc/self/statm")

_Made = TypeVar("_Made")

log = logging.getLogger(__name__)


class Opened(NamedTuple):
    """Engines that work."""

    copies: Copies
    """With the one engine that they are of."""
    engines: tuple[Engine, ...]
    failed: tuple[str, ...]
    """Why those do not work that were to be tried before."""
    short: bool
    """The device had too little memory for their largest batches."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """All engines of a version, warm."""

    way: Way
    """What really runs; it also says why other engines and instances do not."""
    engines: tuple[Engine, ...]
    memory: int
    """By how many bytes the process grew for them."""
    device_memory: Mapping[str, int] = field(default_factory=dict)
    """How many bytes they took of each GPU that they run on, by its UUID."""
    short: frozenset[str] = frozenset()
    """The GPUs, by UUID, that had too little memory for the largest batches."""
    reserved: Mapping[str, int] = field(default_factory=dict)
    """How many they may take of each GPU for which ``model.yaml`` says that."""


class Loader:
    """Downloads in parallel, but loads one version at a time: what each one takes can be told."""

    def __init__(
        self, *, registry: Registry, directory: Path, plans: PlanStore | None = None
    ) -> None:
        self._registry = registry
        self._directory = directory
        self._plans = plans
        self._features = cpu_features()
        self._alone = asyncio.Lock()
        # A thread cannot become less nice again, so it is one of its own.
        self._quiet = ThreadPoolExecutor(1, thread_name_prefix="warm", initializer=_be_nice)

    async def load(self, record: ModelRecord, version: int) -> Loaded:
        """Return the version's engines; where a faster way does not work here, the plain one's.

        Raises
        ------
        Elsewhere
            If the model is for other nodes only.
        ConfigurationError
            (model_invalid) if it cannot be loaded or warmed; nothing is kept of it then.
        NoRoom
            If a GPU has too little memory for it.
        Refused, Retry
            If its file cannot be had.
        """
        spec, stored = record.spec_of(version), record.version(version)
        turns = await asyncio.to_thread(turns_of, spec)
        failed: list[str] = []
        for turn in turns:
            try:
                loaded = await self._load(turn.spec, stored, version)
            except ConfigurationError as error:
                failed.append(error.message)
                if turn is turns[-1]:
                    raise ConfigurationError(error.code, " ".join(failed)) from error
                log.warning("version %d of %s runs elsewhere: %s", version, spec.name, error)
            else:
                return replace(loaded, way=loaded.way.although(turn.instead, *failed))
        raise AssertionError("there is at least one turn, and the last one returns or raises")

    async def _load(self, spec: ModelSpec, stored: VersionRecord, version: int) -> Loaded:
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
        """Open every instance of ``way`` that can be; raise if there is none."""
        files = {
            sha256: await self._registry.fetch(sha256, directory=self._directory)
            for sha256 in way.files
        }
        async with self._alone:
            before = _resident_bytes()
            meter = await asyncio.to_thread(Meter, [one.instance.device for one in way.copies])
            found: list[Opened] = []
            failed: list[ConfigurationError] = []
            try:
                for copies in way.copies:
                    try:
                        found.append(await self._open(copies, files, spec, way))
                    except ConfigurationError as error:
                        failed.append(error)
                if not found:
                    # Copies of one instance fail for one reason.
                    reasons = dict.fromkeys(error.message for error in failed)
                    raise ConfigurationError(failed[0].code, " ".join(reasons))
            except BaseException:
                close_all(engine for opened in found for engine in opened.engines)
                raise
            memory = max(_resident_bytes() - before, 0)
            device_memory = await asyncio.to_thread(meter.taken)
        short = Meter(one.copies.instance.device for one in found if one.short).gpus
        complaints = (*(why for one in found for why in one.failed), *(e.message for e in failed))
        return Loaded(
            way=way.running([one.copies for one in found]).although(*complaints),
            engines=tuple(engine for one in found for engine in one.engines),
            memory=memory,
            device_memory=device_memory,
            short=short,
        )

    async def _open(
        self, copies: Copies, files: Mapping[str, Path], spec: ModelSpec, way: Way
    ) -> Opened:
        """Return warm engines of the first kind that works."""
        failed: list[str] = []
        code = Code.MODEL_INVALID
        for name in copies.engines:
            try:
                engines = await self._engines(copies, files, spec, way, name)
                largest = [engine.batch_sizes[-1] for engine in engines]
                await self._warm(engines)
            except NoMemory as error:
                _let_go(error)
                raise NoRoom(error.message, gpus=Meter([copies.instance.device]).gpus) from error
            except ConfigurationError as error:
                _let_go(error)
                which = f"{name} on {copies.instance.device}: " if len(copies.engines) > 1 else ""
                failed.append(f"{which}{error.message}")
                code = error.code
            else:
                works = replace(copies, engines=(name,), count=len(engines))
                short = largest != [engine.batch_sizes[-1] for engine in engines]
                return Opened(works, engines, tuple(failed), short)
        raise ConfigurationError(code, " ".join(failed))

    async def _engines(
        self, copies: Copies, files: Mapping[str, Path], spec: ModelSpec, way: Way, name: str
    ) -> tuple[Engine, ...]:
        opening = asyncio.get_running_loop().run_in_executor(
            None,  # threads that an engine starts must not be born nice: they serve later
            partial(
                open_engines,
                files[way.file_of(name)],
                spec,
                copies.instance,
                count=copies.count,
                engine=name,
                precision=way.precision_of(name),
                plans=self._plans,
            ),
        )
        try:
            return await _to_the_end(opening)
        except asyncio.CancelledError:
            if opening.exception() is None:
                close_all(opening.result())
            raise

    async def _warm(self, engines: Sequence[Engine]) -> None:
        warming = asyncio.get_running_loop().run_in_executor(self._quiet, _warm, engines)
        try:
            await _to_the_end(warming)
        except BaseException:
            close_all(engines)
            raise

    async def forget(self, hashes: Iterable[str]) -> None:
        """Delete the files of versions that the mesh does not have any more from this node."""
        gone = tuple(hashes)
        await asyncio.to_thread(forget_files, self._directory, gone)
        if self._plans is not None:
            await asyncio.to_thread(self._plans.forget, gone)

    def close(self) -> None:
        self._quiet.shutdown(wait=False)


def close_all(engines: Iterable[Engine]) -> None:
    for engine in engines:
        engine.close()


async def _to_the_end(work: asyncio.Future[_Made]) -> _Made:
    """Return what a thread makes; being cancelled, wait for it all the same before that is told.

    What a thread still works with must not be closed, and what it makes would be nobody's.
    """
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        raise


def _let_go(error: BaseException | None) -> None:
    """Free what the calls had in hand that failed: the error keeps their frames, and memory."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _warm(engines: Iterable[Engine]) -> None:
    for engine in engines:
        engine.warm()


def _be_nice() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


def _resident_bytes() -> int:
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
