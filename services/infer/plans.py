"""Keeps what engines have built of networks: in a folder of this node, and in the mesh."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import IO, Any, TypeVar

import nats.errors

from visionmesh.errors import VisionmeshError
from visionmesh.models.artifacts import file_sha256
from visionmesh.models.plans import Plans

_Answer = TypeVar("_Answer")

_FOLDER_BYTES = 8 << 30
"""Of all plans of a node; a large network has some 300 MB of them for each precision."""
_ABANDONED = timedelta(days=1)
"""After this what a killed process has left half done is nobody's any more."""
_LOOKS = timedelta(seconds=0.5)
"""How often is looked whether another process has built a plan, which takes minutes."""

log = logging.getLogger(__name__)


class FolderPlans:
    """Plans in a folder, which any number of processes share; its methods block.

    A file's name tells its SHA-256, so what was cut short or spoiled is seen. The least recently
    used ones give way when the folder exceeds ``limit`` bytes.
    """

    def __init__(self, folder: Path, *, limit: int = _FOLDER_BYTES) -> None:
        self.folder = folder
        """For what belongs to plans, too, such as what was measured while they were built."""
        self._limit = limit
        self._lock = threading.Lock()
        self._stops: list[Callable[[], None]] = []
        self._closed = threading.Event()
        self._building = threading.Lock()
        self._begun = 0

    @property
    def closed(self) -> bool:
        """Whether nothing is to be built any more."""
        return self._closed.is_set()

    def get(self, key: str) -> Path | None:
        """Return the plan that was stored under ``key``; `None` if there is none."""
        for file in sorted(self.folder.glob(f"{key}-*.plan")):
            with suppress(FileNotFoundError):  # another process may make room at the same time
                if file_sha256(file) == _sha256_of(file):
                    os.utime(file)
                    return file
                log.warning("%s is spoiled, and not used", file)
                file.unlink()
        return None

    def put(self, key: str, path: Path, *, instead_of: Path | None = None) -> None:
        """Store the file ``path`` under ``key``, in place of one that was of no use."""
        kept = self._keep(key, path, file_sha256(path))
        if instead_of is not None and instead_of != kept:
            instead_of.unlink(missing_ok=True)

    def forget(self, networks: Iterable[str]) -> None:
        """Delete the plans of the networks with these SHA-256, if there are any."""
        for sha256 in networks:
            for kind in ("plan", "lock"):
                for file in self.folder.glob(f"{sha256}.*.{kind}"):
                    file.unlink(missing_ok=True)

    @contextmanager
    def alone(self, key: str) -> Iterator[None]:
        """Keep all others of this node from building the same; do not wait once it is closed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{key}.lock").open("w") as lock:
            while not _locked(lock) and not self._closed.wait(_LOOKS.total_seconds()):
                pass
            yield

    @contextmanager
    def building(self) -> Iterator[None]:
        """Let nothing else be built in this process: kernels are measured, one at a time."""
        with self._building:
            self._begun += 1
            yield

    def nothing_built(self) -> Callable[[], bool]:
        """Return what says whether nothing was built since: builders take a GPU's memory, too."""
        begun = None if self._building.locked() else self._begun
        return lambda: self._begun == begun

    @contextmanager
    def stopping(self, stop: Callable[[], None]) -> Iterator[None]:
        """Have ``stop`` called when `close` is, from the thread that does; at once if it was."""
        with self._lock:
            self._stops.append(stop)
            closed = self.closed
        try:
            if closed:
                stop()
            yield
        finally:
            with self._lock:
                self._stops.remove(stop)

    def close(self) -> None:
        """Stop what is being built now, and whatever is begun later."""
        with self._lock:
            self._closed.set()
            stops = tuple(self._stops)
        for stop in stops:
            stop()

    def _keep(self, key: str, path: Path, sha256: str) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / f"{key}-{sha256}.plan"
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            shutil.copyfile(path, partial := Path(scratch) / "plan")
            partial.replace(target)
        self._make_room(target)
        return target

    def _make_room(self, kept: Path) -> None:
        found = []
        for file in self.folder.glob("*.plan"):
            with suppress(FileNotFoundError):
                stat = file.stat()
                found.append((stat.st_mtime, stat.st_size, file))
        for scratch in self.folder.glob("*/"):
            with suppress(FileNotFoundError):
                if time.time() - scratch.stat().st_mtime > _ABANDONED.total_seconds():
                    shutil.rmtree(scratch, ignore_errors=True)
        total = 0
        for _, size, file in sorted(found, reverse=True):
            total += size
            if total > self._limit and file != kept:
                file.unlink(missing_ok=True)


class MeshPlans(FolderPlans):
    """Plans of the whole mesh, those that were used here in a folder of this node.

    Made in the event loop ``loop``, its methods are called in other threads. Without the mesh,
    plans are built once more, and that is all.
    """

    def __init__(
        self,
        plans: Plans,
        folder: Path,
        *,
        loop: asyncio.AbstractEventLoop,
        limit: int = _FOLDER_BYTES,
    ) -> None:
        super().__init__(folder, limit=limit)
        self._plans = plans
        self._loop = loop

    def get(self, key: str) -> Path | None:
        """Return the plan from the folder, or else from the mesh; `None` if neither has it."""
        if (found := super().get(key)) is not None:
            return found
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            fetched = self._in_loop(self._plans.fetch(key, Path(scratch)))
            if fetched is None:
                return None
            log.info("a plan was built by another node: %s", key)
            return self._keep(key, fetched, file_sha256(fetched))

    def put(self, key: str, path: Path, *, instead_of: Path | None = None) -> None:
        """Store the plan in the folder and, unless another node was quicker, in the mesh."""
        super().put(key, path, instead_of=instead_of)
        useless = None if instead_of is None else _sha256_of(instead_of)
        if self._in_loop(self._plans.store(key, path, instead_of=useless)):
            log.info("all nodes alike can have the plan now: %s", key)

    def _in_loop(self, coroutine: Coroutine[Any, Any, _Answer]) -> _Answer | None:
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
        except (VisionmeshError, nats.errors.Error, OSError, TimeoutError, CancelledError) as error:
            log.warning("the mesh has no part in a plan: %r", error)
            return None


def _sha256_of(file: Path) -> str:
    """Return what the file's name says."""
    return file.stem.rpartition("-")[2]


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
