"""Child processes: ended with care, and never outliving who started them."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

Output = Callable[[str, str], None]
"""Takes the name of a process and one line that it printed, without the newline."""

_KEPT_LINES = 20
"""Of a process's last output, to say why it ended."""
_LONGEST_LINE = 1 << 16


def discard(_name: str, _line: str) -> None:
    """An `Output` that shows nothing."""


def launched(command: Sequence[str]) -> list[str]:
    """Return ``command`` wrapped by tools of util-linux, as far as they are there.

    `setpriv` has the kernel send it SIGTERM when its parent dies. That has to be asked for between
    fork and exec, where Python code is unsafe in a program with threads. Without it,
    `visionmesh down` ends what a killed supervisor left behind.

    `chrt` makes it a batch process to the scheduler: one that wakes does not interrupt the one that
    runs. An engine then keeps its caches for a whole time slice, and messages come together
    meanwhile: a seventh more throughput with YOLOX-nano on two cores (docs/benchmarks.md).
    """
    wrapped = list(command)
    if chrt := shutil.which("chrt"):
        wrapped = [chrt, "--batch", "0", *wrapped]
    if setpriv := shutil.which("setpriv"):
        wrapped = [setpriv, "--pdeathsig", "TERM", *wrapped]
    return wrapped


class ChildProcess:
    """One process in a session of its own, so that a Ctrl-C reaches only who supervises it.

    It may be started again after it has ended.
    """

    def __init__(
        self,
        *,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        output: Output = discard,
    ) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self._output = output
        self._last = deque[str](maxlen=_KEPT_LINES)
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Of the running process; `None` when there is none."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if self._process and running else None

    @property
    def last_output(self) -> str:
        return "\n".join(self._last)

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *launched(self._command),
            env=dict(self._environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._reader = asyncio.create_task(self._read(self._process.stdout))

    async def wait(self) -> int:
        """Wait until the process has ended; return its exit status, negative for a signal."""
        if self._process is None:
            return 0
        status = await self._process.wait()
        if self._reader is not None:
            # A grandchild may hold the pipe open for ever; the process itself has said all it can.
            await asyncio.wait({self._reader}, timeout=1.0)
            self._reader.cancel()
        return status

    async def stop(self, *, grace: timedelta, hurry: asyncio.Event | None = None) -> int:
        """Ask the process to end; kill it after ``grace`` or as soon as ``hurry`` is set."""
        if self._process is None:
            return 0
        if self._process.returncode is None:
            self._signal(signal.SIGTERM)
            ended = asyncio.create_task(self._process.wait())
            hurried = asyncio.create_task((hurry or asyncio.Event()).wait())
            await asyncio.wait(
                {ended, hurried},
                timeout=grace.total_seconds(),
                return_when=asyncio.FIRST_COMPLETED,
            )
            hurried.cancel()
            if not ended.done():
                self._signal(signal.SIGKILL)
            await ended
        return await self.wait()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        # It may end between the look and the signal.
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def _read(self, stream: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await stream.read(1 << 16):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._emit(line)
            if len(rest) > _LONGEST_LINE:
                self._emit(rest)
                rest = b""
        if rest:
            self._emit(rest)

    def _emit(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip("\r")
        self._last.append(text)
        self._output(self.name, text)
