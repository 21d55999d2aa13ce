"""Has a plan built by a process of its own, and tells how that goes."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import IO

from pydantic import ValidationError

from services.infer.engines import PlanStore
from services.infer.engines.tensorrt.job import MESSAGES, Built, Failed, Job, Progress
from visionmesh.errors import Code, ConfigurationError, Retry
from visionmesh.gpu.gpu import GpuMemoryError
from visionmesh.processes import launched

_MODULE = "services.infer.engines.tensorrt.build"
_LOGGED = 10
"""Lines in the log while one plan is built."""
_LAST_BYTES = 4096
"""Of what a process said before it died."""

log = logging.getLogger(__name__)


def build_plan(
    job: Job,
    *,
    model: str,
    timeout: timedelta,
    plans: PlanStore,
    told: Callable[[str], None] = lambda _: None,
) -> None:
    """Have the plan written that ``job`` asks for; the builder's memory is free again afterwards.

    ``told`` is called with how far it is, as the log is.

    Raises
    ------
    ConfigurationError
        (model_invalid) with TensorRT's reasons if it cannot, if the builder crashes or is ended, or
        if it takes longer than ``timeout``.
    GpuMemoryError
        If the device has too little memory for it now.
    Retry
        (model_not_ready) if ``plans`` is closed before it is built.
    """
    log.info("model %s: TensorRT builds it for batches of %s", model, _listed(job.sizes))
    told("TensorRT builds its plan")
    # To a file: a pipe that nobody reads would block the builder once it is full.
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            launched([sys.executable, "-m", _MODULE]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        with _ended(process), _in_time(process, timeout) as late, plans.stopping(process.terminate):
            with suppress(BrokenPipeError), process.stdin as asked:  # it may be dead already
                asked.write(job.model_dump_json().encode())
            last = _follow(process.stdout, model, told)
            status = process.wait()
        if isinstance(last, Built):  # whole, even if a library crashes as it is unloaded
            size = last.nbytes >> 20
            log.info("model %s: built by TensorRT in %.0f s, %d MiB", model, last.seconds, size)
            return
        if isinstance(last, Failed):
            raise _failed(model, last)
        if plans.closed:
            raise Retry(f"Model {model!r}: the worker ends.", code=Code.MODEL_NOT_READY)
        reason = f"took longer than {timeout}" if late.is_set() else _fate(status, complaints)
        raise _failed(model, Failed(reason=f"the builder {reason}"))


def _follow(lines: IO[bytes], model: str, told: Callable[[str], None]) -> Built | Failed | None:
    """Tell the progress until the process ends its output; return its last word, if it had one."""
    last: Built | Failed | None = None
    logged = 0
    for line in lines:
        try:
            message = MESSAGES.validate_json(line)
        except ValidationError:
            log.warning("model %s: a builder said %r", model, line)
            continue
        if not isinstance(message, Progress):
            last = message
        elif (part := int(message.share * _LOGGED)) > logged:
            logged = part
            log.info("model %s: %.0f %% built (%s)", model, 100 * message.share, message.phase)
            told(f"TensorRT builds its plan: {message.share:.0%} ({message.phase})")
    return last


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Leave no process behind, whatever happens."""
    try:
        yield
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@contextmanager
def _in_time(process: subprocess.Popen[bytes], timeout: timedelta) -> Iterator[threading.Event]:
    """Kill the process after ``timeout``; the event tells that this has happened."""
    late = threading.Event()

    def end() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(timeout.total_seconds(), end)
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def _failed(model: str, last: Failed) -> Exception:
    if last.memory:
        return GpuMemoryError(last.reason)
    return ConfigurationError(
        Code.MODEL_INVALID, f"TensorRT cannot build model {model!r}: {last.reason}."
    )


def _fate(status: int, complaints: IO[bytes]) -> str:
    """Say how a process ended that did not say so itself."""
    complaints.seek(max(complaints.seek(0, 2) - _LAST_BYTES, 0))
    lines = complaints.read().decode(errors="replace").strip().splitlines()
    said = f" after {lines[-1].strip()!r}" if lines else ""
    if status == -signal.SIGTERM:
        return "was told to end"
    if status == -signal.SIGKILL:
        return f"was killed, as the host runs out of memory perhaps{said}"
    if status < 0:
        return f"crashed ({signal.Signals(-status).name}){said}"
    return f"ended with status {status}{said}"


def _listed(sizes: tuple[int, ...]) -> str:
    return ", ".join(map(str, sizes))
