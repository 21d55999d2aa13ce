"""Engines from the mesh's files: of each instance the first kind that works."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from services.infer.engines import Engine, NoMemory, PlanStore
from services.infer.memory import Meter, TooLarge
from services.infer.opening import Wanted, Workshop, close_all, let_go
from services.infer.ways import Copies, Way, choose_way, plain_way
from visionmesh.cores import usable_cores
from visionmesh.cpu import cpu_features
from visionmesh.errors import ConfigurationError, Refused
from visionmesh.models.artifacts import forget_files
from visionmesh.models.record import VersionRecord
from visionmesh.models.registry import Registry
from visionmesh.models.spec import ModelSpec

_STATM = Path("/proc/self/statm")

_Made = TypeVar("_Made")

log = logging.getLogger(__name__)


class Candidates(NamedTuple):
    """The engines of an instance that are left to be tried."""

    copies: Copies
    failed: tuple[ConfigurationError, ...] = ()
    """Why those do not work that were to be tried before."""


class Opened(NamedTuple):
    """Engines that work."""

    copies: Copies
    """With the one engine that they are of."""
    engines: tuple[Engine, ...]
    failed: tuple[ConfigurationError, ...]
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
    exact: bool = True
    """Nothing was built at the same time, which takes memory of a GPU, too."""
    device_memory: Mapping[str, int] = field(default_factory=dict)
    """How many bytes they took of each GPU that they run on, by its UUID."""
    short: frozenset[str] = frozenset()
    """The GPUs, by UUID, that had too little memory for the largest batches."""
    reserved: Mapping[str, int] = field(default_factory=dict)
    """How many they may take of each GPU for which ``model.yaml`` says that."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """On which a version is loaded; no other one is opened from `admit` until `accept` returns."""

    admit: Callable[[], Awaitable[None]]
    """Awaited before its engines are opened."""
    accept: Callable[[Loaded], Awaitable[Loaded]]
    """Returns what was opened; if it raises, that is closed."""
    told: Callable[[str], None]
    """Called with how far what takes long is."""


class Loader:
    """Downloads and builds in parallel, but opens one version at a time: so its size is known."""

    def __init__(
        self, *, registry: Registry, directory: Path, plans: PlanStore | None = None
    ) -> None:
        self._registry = registry
        self._directory = directory
        self._plans = plans
        self._features = cpu_features()
        self._alone = asyncio.Lock()
        self._workshop = Workshop(plans=plans)

    async def load(self, spec: ModelSpec, stored: VersionRecord, terms: Terms) -> Loaded:
        """Return a version's engines; where a faster way does not work here, the plain one's.

        Raises
        ------
        ConfigurationError
            (model_invalid) if it cannot be loaded or warmed; nothing is kept of it then.
        Full
            If a GPU has too little memory for it.
        Refused, Retry
            If its file cannot be had.
        """
        cores = usable_cores()
        way = choose_way(spec, stored, features=self._features, cores=cores)
        try:
            return await self._follow(way, spec, terms)
        except (ConfigurationError, Refused) as error:
            if way.plain or isinstance(error, TooLarge):
                raise
            log.warning("a version of %s runs as it was: %s", spec.name, error)
            plain = plain_way(spec, stored, cores=cores, why="the faster way does not work here")
            return await self._follow(plain, spec, terms)

    async def _follow(self, way: Way, spec: ModelSpec, terms: Terms) -> Loaded:
        """Open every instance of ``way`` that can be; raise if there is none."""
        files = {
            sha256: await self._registry.fetch(sha256, directory=self._directory)
            for sha256 in way.files
        }
        wanted = Wanted(spec=spec, way=way, files=files)
        failed: list[ConfigurationError] = []
        built = await self._build(wanted, failed, terms.told)
        async with self._alone:
            await terms.admit()
            loaded = await self._open(wanted, built, failed)
            try:
                return await terms.accept(loaded)
            except BaseException:
                await close_all(loaded.engines)
                raise

    async def _build(
        self, wanted: Wanted, failed: list[ConfigurationError], told: Callable[[str], None]
    ) -> list[Candidates]:
        """Have built what the first engine of each instance wants; return those left to be opened.

        Why an instance has none goes to ``failed``.
        """
        built = []
        for copies in wanted.way.copies:
            build = partial(self._workshop.build, wanted, copies, told)
            try:
                left, _ = await _first(Candidates(copies), build)
                built.append(left)
            except NoMemory as error:
                # It has taken minutes: what counts is what is free now.
                meter = await asyncio.to_thread(Meter, [copies.instance.device])
                raise meter.full(copies.instance.device, error.message) from error
            except ConfigurationError as error:
                failed.append(error)
        if not built:
            raise _joined(failed)
        return built

    async def _open(
        self, wanted: Wanted, built: Sequence[Candidates], failed: list[ConfigurationError]
    ) -> Loaded:
        before, nothing_built = _resident_bytes(), self._workshop.nothing_built()
        meter = await asyncio.to_thread(Meter, [one.copies.instance.device for one in built])
        found: list[Opened] = []
        try:
            for candidates in built:
                try:
                    found.append(await self._open_first(wanted, candidates))
                except NoMemory as error:
                    device = candidates.copies.instance.device
                    raise meter.full(device, error.message) from error
                except ConfigurationError as error:
                    failed.append(error)
            if not found:
                raise _joined(failed)
            device_memory = await asyncio.to_thread(meter.taken)
        except BaseException:
            await close_all(engine for opened in found for engine in opened.engines)
            raise
        complaints = (*(error for one in found for error in one.failed), *failed)
        way = wanted.way.running([one.copies for one in found])
        return Loaded(
            way=way.although(*(error.message for error in complaints)),
            engines=tuple(engine for one in found for engine in one.engines),
            memory=max(_resident_bytes() - before, 0),
            device_memory=device_memory,
            short=meter.gpus(one.copies.instance.device for one in found if one.short),
            exact=nothing_built(),
        )

    async def _open_first(self, wanted: Wanted, candidates: Candidates) -> Opened:
        """Return warm engines of the first kind that works."""
        open_ = partial(self._workshop.open, wanted, candidates.copies)
        left, (engines, short) = await _first(candidates, open_)
        copies = replace(left.copies, engines=left.copies.engines[:1], count=len(engines))
        return Opened(copies, engines, left.failed, short)

    async def forget(self, hashes: Iterable[str]) -> None:
        """Delete the files of versions that the mesh does not have any more from this node."""
        gone = tuple(hashes)
        await asyncio.to_thread(forget_files, self._directory, gone)
        if self._plans is not None:
            await asyncio.to_thread(self._plans.forget, gone)

    def close(self) -> None:
        self._workshop.close()


async def _first(
    candidates: Candidates, attempt: Callable[[str], Awaitable[_Made]]
) -> tuple[Candidates, _Made]:
    """Return those left of an instance's engines of which ``attempt`` works for the first.

    What it makes of that is returned, too. Raises `NoMemory` if the device has too little.
    """
    copies, failed = candidates
    for at, name in enumerate(copies.engines):
        try:
            made = await attempt(name)
        except ConfigurationError as error:
            let_go(error)
            if isinstance(error, NoMemory):
                raise
            several = failed or len(copies.engines) > 1
            which = f"{name} on {copies.instance.device}: " if several else ""
            failed = (*failed, ConfigurationError(error.code, f"{which}{error.message}"))
        else:
            return Candidates(replace(copies, engines=copies.engines[at:]), failed), made
    raise _joined(failed)


def _joined(failed: Sequence[ConfigurationError]) -> ConfigurationError:
    # Copies of one instance fail for one reason.
    reasons = dict.fromkeys(error.message for error in failed)
    return ConfigurationError(failed[-1].code, " ".join(reasons))


def _resident_bytes() -> int:
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
