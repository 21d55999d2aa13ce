"""What keeps processes running, and what they are told."""

from __future__ import annotations

import asyncio
import json
import logging
import logging.handlers
import os
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from visionmesh.errors import ConfigurationError
from visionmesh.settings import Settings
from visionmesh.tasks import end

_FIRST_PAUSE = timedelta(milliseconds=250)
_LONGEST_PAUSE = timedelta(seconds=30)
_RAN_WELL = timedelta(seconds=30)
"""After so long a next failure is a new one, and the pauses begin anew."""
_LOG_BYTES = 10 << 20
_PREFIX = "VISIONMESH_"
_ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
"""Numbers of GPUs count as NVML and nvidia-smi do; by itself CUDA puts the fastest first."""
_BOUNDED = {
    # The engines and decoders have thread counts of their own; a pool in each library multiplies.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # glibc keeps an arena per thread, and what one frees the others cannot use.
    "MALLOC_ARENA_MAX": "2",
    "PYTHONUNBUFFERED": "1",
    # ONNX Runtime's Linux wheels report to their maker, and leave a file in the temporary folder.
    "ORT_DISABLE_TELEMETRY": "1",
}


class Restartable(Protocol):
    """A process that can be started again after it ended."""

    @property
    def name(self) -> str: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def last_output(self) -> str: ...
    async def start(self) -> None: ...
    async def wait(self) -> int: ...
    async def stop(self, *, grace: timedelta, hurry: asyncio.Event | None = None) -> int: ...


class Keeper:
    """Starts one process again, later and later, whenever it ends unasked."""

    def __init__(
        self,
        *,
        process: Restartable,
        report: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        """Have ``report`` told what happens, and ``changed`` called after each new start."""
        self._process = process
        self._report = report
        self._changed = changed
        self._task: asyncio.Task[None] | None = None
        self.restarts = 0

    @property
    def name(self) -> str:
        return self._process.name

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def last_output(self) -> str:
        return self._process.last_output

    async def start(self) -> None:
        await self._process.start()
        self._task = asyncio.create_task(self._keep(), name=f"keep {self.name}")

    async def stop(self, *, grace: timedelta, hurry: asyncio.Event) -> None:
        """End the process for good; kill it after ``grace`` or as soon as ``hurry`` is set."""
        if self._task is not None:
            await end([self._task])
        status = await self._process.stop(grace=grace, hurry=hurry)
        self._report(f"{self.name} ended ({_said(status)})")

    async def _keep(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            began = time.monotonic()
            status = await self._process.wait()
            if time.monotonic() - began > _RAN_WELL.total_seconds():
                pause = _FIRST_PAUSE
            self._report(
                f"{self.name} ended unasked ({_said(status)}); "
                f"starting it again in {pause.total_seconds():g} s"
            )
            await asyncio.sleep(pause.total_seconds())
            pause = min(2 * pause, _LONGEST_PAUSE)
            self.restarts += 1
            try:
                await self._process.start()
                self._changed()
            except (ConfigurationError, OSError) as error:
                self._report(f"{self.name}: {error}")


def _said(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"status {status}"


def child_environment(settings: Settings) -> dict[str, str]:
    """Return the environment in which a process reads exactly ``settings``."""
    told = tuple(f"{_PREFIX}{name.upper()}" for name in Settings.model_fields)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(told)}
    # Also where a picture is looked at before preprocess has read its header.
    pixels = {"OPENCV_IO_MAX_IMAGE_PIXELS": str(settings.preprocess.max_pixels)}
    own = dict(_leaves(_PREFIX, settings.model_dump(mode="json")))
    return {**_ORDER, **inherited, **_BOUNDED, **pixels, **own}


def _leaves(prefix: str, values: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            pairs += _leaves(f"{prefix}{name.upper()}__", value)
        else:
            plain = value if isinstance(value, str) else json.dumps(value)
            pairs.append((f"{prefix}{name.upper()}", plain))
    return pairs


class LogFiles:
    """An `Output` that writes what each process prints to a file of its own, bounded in size."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, logging.Handler] = {}

    def __call__(self, name: str, line: str) -> None:
        if name not in self._files:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._files[name] = logging.handlers.RotatingFileHandler(
                self._folder / f"{name}.log", maxBytes=_LOG_BYTES, backupCount=1
            )
        self._files[name].emit(logging.makeLogRecord({"msg": line}))

    def close(self) -> None:
        for file in self._files.values():
            file.close()
