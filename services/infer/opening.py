"""Engines in threads: what they want is built, they are opened and warmed, and freed if not."""

from __future__ import annotations

import asyncio
import os
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from services.infer.engines import BUILT, Engine, PlanStore, build_for, open_engines
from services.infer.ways import Copies, Way
from visionmesh.models.spec import ModelSpec

_NICE = 10
"""Of the thread that warms: a tenth of a core that is wanted elsewhere, all of an idle one."""
_MOST_BUILDS = 64
"""That wait for each other, and need no more than a thread for that."""

_Made = TypeVar("_Made")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A version, as it is to be opened."""

    spec: ModelSpec
    way: Way
    files: Mapping[str, Path]
    """By SHA-256."""

    def weights(self, engine: str) -> Path:
        """Return the file that ``engine`` runs; raise as `Way.file_of`."""
        return self.files[self.way.file_of(engine)]


class Workshop:
    """Works in threads that disturb those that serve as little as can be."""

    def __init__(self, *, plans: PlanStore | None) -> None:
        self._plans = plans
        # Who builds may wait for another one for long, and would keep others from their work.
        self._patient = ThreadPoolExecutor(_MOST_BUILDS, thread_name_prefix="build")
        # A thread cannot become less nice again, so it is one of its own.
        self._quiet = ThreadPoolExecutor(1, thread_name_prefix="warm", initializer=_be_nice)

    async def build(
        self, wanted: Wanted, copies: Copies, told: Callable[[str], None], name: str
    ) -> None:
        """Have built what the engine ``name`` wants, if it is not there; most want nothing.

        ``told`` is called with how far that is. Raises as `build_for`.
        """
        if self._plans is None or name not in BUILT:
            return
        loop = asyncio.get_running_loop()

        def tell(news: str) -> None:
            loop.call_soon_threadsafe(told, news)

        build = partial(
            build_for,
            wanted.weights(name),
            wanted.spec,
            copies.instance,
            engine=name,
            plans=self._plans,
            told=tell,
        )
        await _to_the_end(loop.run_in_executor(self._patient, build))

    def nothing_built(self) -> Callable[[], bool]:
        """Return what says whether nothing was built since: builders take a GPU's memory, too."""
        return self._plans.nothing_built() if self._plans is not None else lambda: True

    async def open(
        self, wanted: Wanted, copies: Copies, name: str
    ) -> tuple[tuple[Engine, ...], bool]:
        """Return warm engines, and whether memory lacked for their largest batches."""
        opening = asyncio.get_running_loop().run_in_executor(
            None,  # threads that an engine starts must not be born nice: they serve later
            partial(
                open_engines,
                wanted.weights(name),
                wanted.spec,
                copies.instance,
                count=copies.count,
                engine=name,
                precision=wanted.way.precision_of(name),
                plans=self._plans,
            ),
        )
        try:
            engines = await _to_the_end(opening)
        except asyncio.CancelledError:
            if opening.exception() is None:
                await close_all(opening.result())
            raise
        largest = [engine.batch_sizes[-1] for engine in engines]
        warming = asyncio.get_running_loop().run_in_executor(self._quiet, _warm, engines)
        try:
            await _to_the_end(warming)
        except BaseException:
            await close_all(engines)
            raise
        return engines, largest != [engine.batch_sizes[-1] for engine in engines]

    def close(self) -> None:
        self._patient.shutdown(wait=False)
        self._quiet.shutdown(wait=False)


async def close_all(engines: Iterable[Engine]) -> None:
    """Close engines in a thread: some wait for a device, or for processes of theirs."""
    await asyncio.to_thread(_close, tuple(engines))


def _close(engines: Iterable[Engine]) -> None:
    for engine in engines:
        engine.close()


def let_go(error: BaseException | None) -> None:
    """Free what the calls had in hand that failed: the error keeps their frames, and memory."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


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


def _warm(engines: Iterable[Engine]) -> None:
    for engine in engines:
        engine.warm()


def _be_nice() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
