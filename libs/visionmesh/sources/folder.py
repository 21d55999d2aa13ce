"""A folder that others put images into."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import AsyncGenerator, Iterator
from datetime import timedelta
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
POLL = timedelta(milliseconds=250)


class _Look(NamedTuple):
    """A file as it was found: one that is renamed stays the same, one that is written to does not.

    Times have the file system's resolution; a size that changes tells of most later writes.
    """

    device: int
    inode: int
    modified_ns: int
    size: int


class Arrival(NamedTuple):
    """An image that is complete."""

    path: Path
    id: str
    """Always the same for this file in this folder, so that it has one result."""


class Folder:
    """Tells each image in a folder and the folders in it, once it is complete.

    It is when two looks, a quarter of a second apart, find the same size and time. Names that begin
    with a dot are passed by. With ``move_to`` an image goes there, as it lies in the folder, when
    it is `done`.
    """

    def __init__(self, path: Path, *, move_to: Path | None = None) -> None:
        self._path = path.resolve()
        self._move_to = move_to.resolve() if move_to is not None else None
        self._before: dict[Path, _Look] = {}
        self._told: set[_Look] = set()

    async def arrivals(self) -> AsyncGenerator[Arrival, None]:
        """Yield the images that are there, those longest unchanged first, and then what comes."""
        while True:
            for arrival in await asyncio.to_thread(self._look):
                yield arrival
            await asyncio.sleep(POLL.total_seconds())

    async def done(self, arrival: Arrival) -> None:
        """Move the image away if that is wanted, under a new name if its own is taken there."""
        if self._move_to is not None:
            to = self._move_to / arrival.path.relative_to(self._path)
            await asyncio.to_thread(_move, arrival.path, to)

    def _look(self) -> list[Arrival]:
        now = dict(self._found())
        complete = [
            path
            for path, look in now.items()
            if look.size and look not in self._told and self._before.get(path) == look
        ]
        self._before = now
        # Of what is gone nothing is remembered.
        self._told = {look for look in now.values() if look in self._told}
        self._told.update(now[path] for path in complete)
        complete.sort(key=lambda path: (now[path].modified_ns, path))
        return [Arrival(path, self._id(path, now[path])) for path in complete]

    def _id(self, path: Path, look: _Look) -> str:
        text = f"{path.relative_to(self._path)}/{look.modified_ns}/{look.size}"
        return hashlib.sha256(os.fsencode(text)).hexdigest()[:32]

    def _found(self) -> Iterator[tuple[Path, _Look]]:
        for folder, folders, files in os.walk(self._path):
            folders[:] = [
                name for name in folders if name[0] != "." and Path(folder, name) != self._move_to
            ]
            for name in files:
                path = Path(folder, name)
                if name[0] == "." or path.suffix.lower() not in SUFFIXES:
                    continue
                try:
                    facts = path.stat()
                except FileNotFoundError:  # renamed or removed in this moment
                    continue
                yield path, _Look(facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_size)


def _move(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    names = chain([to], (to.with_stem(f"{to.stem}-{number}") for number in count(2)))
    shutil.move(path, next(name for name in names if not name.exists()))
