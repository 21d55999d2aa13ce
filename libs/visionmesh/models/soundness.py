"""Whether an engine can be trusted, whatever its answers are worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.infer.engines import Engine, Outputs
from visionmesh.contracts import Frozen, Params
from visionmesh.errors import Reject
from visionmesh.models.variants import Precision
from visionmesh.workbench import Sample, Workbench

RUNS = "runs"
"""The only check of an engine that fails on an image: nothing else can be told of it."""

_TOLERANCE = {
    Precision.FP32: 1e-3,
    Precision.BF16: 5e-2,
    Precision.FP16: 1e-2,
    Precision.INT8: 5e-2,
}
"""Largest error between an image alone and in a batch, in parts of the largest output value: sums
are added in another order, and rounding makes a step of the smallest difference."""


class Check(Frozen):
    """One thing that must hold."""

    name: str
    passed: bool
    told: str
    """What was seen."""


def engine_checks(
    bench: Workbench, engine: Engine, samples: Sequence[Sample], precision: Precision
) -> tuple[Check, ...]:
    """Return whether outputs are finite, readable, repeatable and independent of the batch."""
    try:
        alone = [engine.run([sample.pixels]) for sample in samples]
        return (
            _finite(alone),
            _readable(bench, alone, samples),
            _repeatable(engine, alone, samples),
            _independent(engine, alone, samples, _TOLERANCE[precision]),
        )
    except Reject as error:
        return (Check(name=RUNS, passed=False, told=error.message),)


def flaws(checks: Sequence[Check]) -> str:
    """Return what does not hold, in words; nothing if all does."""
    return "; ".join(f"{check.name}: {check.told}" for check in checks if not check.passed)


def sizes_of(engine: Engine) -> tuple[int, ...]:
    """Return the batch sizes to try: powers of two, and the largest."""
    sizes = engine.batch_sizes
    return tuple(size for size in sizes if size & (size - 1) == 0 or size == sizes[-1])


def _finite(alone: Sequence[Outputs]) -> Check:
    broken = {
        name for outputs in alone for name, array in outputs.items() if not np.isfinite(array).all()
    }
    told = f"NaN or infinity in {', '.join(sorted(broken))}" if broken else "all values are finite"
    return Check(name="finite", passed=not broken, told=told)


def _readable(bench: Workbench, alone: Sequence[Outputs], samples: Sequence[Sample]) -> Check:
    try:
        for outputs, sample in zip(alone, samples, strict=True):
            bench.read(outputs, 0, sample, Params())
    except Reject as error:
        return Check(name="readable", passed=False, told=error.message.rstrip("."))
    decoder = bench.spec.output.decoder
    return Check(name="readable", passed=True, told=f"{decoder} makes an answer of every output")


def _repeatable(engine: Engine, alone: Sequence[Outputs], samples: Sequence[Sample]) -> Check:
    again = [engine.run([sample.pixels]) for sample in samples]
    different = sum(
        not np.array_equal(first[name], second[name], equal_nan=first[name].dtype.kind == "f")
        for first, second in zip(alone, again, strict=True)
        for name in first
    )
    told = f"{different} outputs differ the second time" if different else "twice the same bits"
    return Check(name="repeatable", passed=not different, told=told)


def _independent(
    engine: Engine, alone: Sequence[Outputs], samples: Sequence[Sample], tolerance: float
) -> Check:
    worst, where = 0.0, 1
    for size in sizes_of(engine):
        order = [number % len(samples) for number in range(size)]
        outputs = engine.run([samples[number].pixels for number in order])
        for place, number in enumerate(order):
            for name, expected in alone[number].items():
                error = _error(expected[0], outputs[name][place])
                if error > worst:
                    worst, where = error, size
    told = f"an image differs by {worst:.2g} of the largest value at most (batch of {where})"
    return Check(name="batch", passed=worst <= tolerance, told=told)


def _error(expected: NDArray[Any], given: NDArray[Any]) -> float:
    """Return the largest difference, in parts of the largest value.

    Rows may have changed places: a network that sorts what it finds may swap two equals.
    """
    if expected.shape != given.shape:
        return math.inf
    one, other = (array.astype(np.float64).ravel() for array in (expected, given))
    if not (np.isfinite(one) & np.isfinite(other)).all():
        return 0.0 if np.array_equal(one, other, equal_nan=True) else math.inf
    size = float(np.abs(one).max(initial=0)) or 1.0
    difference = np.abs(one - other).max(initial=0)
    in_order = np.abs(np.sort(one) - np.sort(other)).max(initial=0)
    return float(min(difference, in_order)) / size
