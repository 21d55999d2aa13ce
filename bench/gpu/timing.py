"""How long work on a device takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from visionmesh.gpu import Gpu, Stream

_ROUNDS = 5
_WARM = 0.2
"""Seconds of work before what counts: the clocks of an idle device are slow."""


def device_seconds(
    gpu: Gpu, stream: Stream, work: Callable[[], object], *, repeats: int = 20
) -> float:
    """Return what one call of ``work`` takes of ``stream``, on which it enqueues something.

    The median of some rounds, each of so many calls between two events. A call that enqueues less
    than it takes to enqueue it is measured by the latter: let it be what `Stream.capture` returns.
    """
    with stream:
        began = time.perf_counter()
        while time.perf_counter() - began < _WARM:
            for _ in range(repeats):
                work()
            stream.synchronize()
        return statistics.median(_round(gpu, stream, work, repeats) for _ in range(_ROUNDS))


def _round(gpu: Gpu, stream: Stream, work: Callable[[], object], repeats: int) -> float:
    if gpu.info.kind != "cuda":
        began = time.perf_counter()
        for _ in range(repeats):
            work()
        return (time.perf_counter() - began) / repeats
    from cupy.cuda import Event, get_elapsed_time  # noqa: PLC0415 - only where GPUs are

    begin, end = Event(), Event()
    begin.record()
    for _ in range(repeats):
        work()
    end.record()
    end.synchronize()
    milliseconds: float = get_elapsed_time(begin, end)
    return milliseconds / 1e3 / repeats


def seconds(work: Callable[[], object], *, warm_up: int = 3, at_least: float = 0.5) -> list[float]:
    """Return what each call of ``work`` takes by the clock, for calls that return when done."""
    for _ in range(warm_up):
        work()
    took: list[float] = []
    while len(took) < _ROUNDS or sum(took) < at_least:
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return took
