"""The state folder: whose mesh it is, what runs there, and where it can be reached."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Self

import psutil
from pydantic import ValidationError

from visionmesh.contracts import Frozen
from visionmesh.errors import Code, ConfigurationError
from visionmesh.tensors import reap

_RECORD = "mesh.json"
_LOCK = "mesh.lock"
_KILL_TIMEOUT = 5.0


class RunningProcess(Frozen):
    """A process, told apart from a later one with the same number by when it was started."""

    name: str
    pid: int
    started: float
    """Unix time in seconds, as the kernel tells it."""

    @classmethod
    def of(cls, name: str, pid: int) -> Self | None:
        """Return the process that has ``pid`` now; `None` if there is none."""
        try:
            return cls(name=name, pid=pid, started=psutil.Process(pid).create_time())
        except psutil.NoSuchProcess:
            return None

    def find(self) -> psutil.Process | None:
        """Return the process if it still runs."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.started) < 1.0 and process.is_running():
                return process
        return None


class MeshRecord(Frozen):
    """What one supervisor runs, and where."""

    supervisor: RunningProcess
    processes: tuple[RunningProcess, ...] = ()
    nats_url: str
    redis_url: str | None = None
    http_url: str | None = None
    shm_dir: Path
    shm_prefix: str


class StateFolder:
    """The folder that one mesh on this host keeps everything in."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the folder for this process; the kernel lets go of it however the process ends.

        Raises
        ------
        ConfigurationError
            If another supervisor holds it, or it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigurationError(
                Code.SETTINGS_INVALID, f"The state folder {self.path}: {error.strerror}."
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise ConfigurationError(
                Code.SETTINGS_INVALID,
                f"A mesh already runs with the state folder {self.path}: "
                "`visionmesh down` ends it, --state DIR starts another one.",
            ) from error
        try:
            yield
        finally:
            os.close(descriptor)

    def living(self) -> MeshRecord | None:
        """Return the record of the mesh that runs now; `None` if its supervisor is gone."""
        record = self.read()
        return record if record and record.supervisor.find() else None

    def read(self) -> MeshRecord | None:
        """Return what the last supervisor wrote down and did not clear."""
        try:
            return MeshRecord.model_validate_json((self.path / _RECORD).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def write(self, record: MeshRecord) -> None:
        fresh = self.path / f"{_RECORD}.new"
        fresh.write_text(record.model_dump_json(indent=2))
        fresh.replace(self.path / _RECORD)

    def clear(self) -> None:
        (self.path / _RECORD).unlink(missing_ok=True)


def end_leftovers(processes: Iterable[RunningProcess]) -> list[RunningProcess]:
    """Kill those of ``processes`` that still run; return them once they are gone."""
    alive = [(recorded, found) for recorded in processes if (found := recorded.find())]
    for _, process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs([process for _, process in alive], timeout=_KILL_TIMEOUT)
    return [recorded for recorded, _ in alive]


def end_mesh(folder: StateFolder, *, patience: timedelta) -> bool:
    """End the mesh of ``folder`` and everything that it, or a killed one, left; `False`: none.

    The supervisor is asked first, and killed if it still runs after ``patience``.
    """
    record = folder.read()
    if record is None:
        return False
    if supervisor := record.supervisor.find():
        with suppress(psutil.NoSuchProcess):
            supervisor.terminate()
        psutil.wait_procs([supervisor], timeout=patience.total_seconds())
    end_leftovers([record.supervisor, *record.processes])
    reap(record.shm_dir, prefix=record.shm_prefix)
    folder.clear()
    return True
