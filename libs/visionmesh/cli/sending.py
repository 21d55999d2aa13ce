"""Publishing images from files, at a pace, and with patience where the mesh is full."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypedDict, TypeVar

import typer

from visionmesh.client import Mesh
from visionmesh.contracts import Params, Priority, Result
from visionmesh.errors import Code, Refused
from visionmesh.sources.folder import SUFFIXES

T = TypeVar("T")

_AT_ONCE = 16
_FULL_PAUSE = timedelta(milliseconds=100)
HOPELESS = frozenset({Code.MESH_UNREACHABLE, Code.UNKNOWN_MODEL, Code.INVALID_NAME})
"""What will be said of every other image too."""
_CLOCKS_DIFFER = timedelta(minutes=1)
"""The server dates the results; nothing older can be of a source that was just made up."""


def find_images(paths: Iterable[Path]) -> list[Path]:
    """Return the files that are named, and those in named folders that look like images."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        elif path.is_file():
            found.append(path)
        else:
            raise typer.BadParameter(f"{path} does not exist")
    if not found:
        raise typer.BadParameter("there is no image in what was named")
    return found


class Wishes(TypedDict):
    """What is the same for all images of one command."""

    model: str
    source: str
    params: Params | None
    priority: Priority
    deadline: timedelta | None


class Pace:
    """Lets one through at a time, ``rate`` per second; `None` lets all through."""

    def __init__(self, rate: float | None) -> None:
        self._step = 1 / rate if rate else 0.0
        self._next = time.monotonic()

    async def wait(self) -> None:
        now = time.monotonic()
        # Whoever was held up does not make up for it with a burst.
        self._next = max(self._next + self._step, now)
        await asyncio.sleep(self._next - now)


class Sender:
    """Publishes images of one source to one model."""

    def __init__(
        self,
        *,
        mesh: Mesh,
        model: str,
        source: str,
        params: Params | None = None,
        priority: Priority = Priority.NORMAL,
        deadline: timedelta | None = None,
        rate: float | None = None,
    ) -> None:
        self._mesh = mesh
        self._model = model
        self._source = source
        self._params = params
        self._priority = priority
        self._deadline = deadline
        self._pace = Pace(rate)

    async def send(self, image: bytes | Path, *, id: str | None = None) -> str:
        """Publish one image and return its event's id; wait while the mesh is full.

        Raises
        ------
        Refused
            If the mesh does not take it for another reason.
        """
        while True:
            try:
                return await self._mesh.publish(
                    self._model,
                    image,
                    source=self._source,
                    id=id,
                    params=self._params,
                    deadline=self._deadline,
                    priority=self._priority,
                )
            except Refused as error:
                if error.code is not Code.MESH_FULL:
                    raise
            await asyncio.sleep(_FULL_PAUSE.total_seconds())

    async def send_all(
        self, images: Mapping[str, Path], *, each: Callable[[str, Refused | None], None]
    ) -> None:
        """Publish files by the ids of their events; tell ``each`` id, and why if it was refused.

        A mesh that cannot be reached or does not have the model ends it at once.
        """
        waiting = iter(images.items())

        async def worker() -> None:
            for id, path in waiting:
                await self._pace.wait()
                try:
                    await self.send(path, id=id)
                except Refused as error:
                    if error.code in HOPELESS:
                        raise
                    each(id, error)
                else:
                    each(id, None)

        await together(*(worker() for _ in range(_AT_ONCE)))


async def together(*works: Coroutine[None, None, None]) -> None:
    """Do all of ``works``; the first error ends the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def beside(background: Coroutine[None, None, None], work: Coroutine[None, None, T]) -> T:
    """Do ``work`` while ``background`` goes on; an error of either ends both."""
    going, working = asyncio.create_task(background), asyncio.create_task(work)
    try:
        await asyncio.wait({going, working}, return_when=asyncio.FIRST_COMPLETED)
        if going.done():
            going.result()
        return await working
    finally:
        going.cancel()
        working.cancel()
        await asyncio.gather(going, working, return_exceptions=True)


def results_of_new(source: str, *, mesh: Mesh, model: str) -> AsyncGenerator[Result, None]:
    """Return all results of a source that was just made up."""
    return mesh.results(model, source=source, since=datetime.now(UTC) - _CLOCKS_DIFFER)


def new_ids(images: Iterable[Path]) -> dict[str, Path]:
    """Return ``images`` by ids of their own."""
    return {uuid.uuid4().hex: path for path in images}
