"""How much memory a network needs, measured in a process of its own.

In a process that has freed memory before, what is freed hides what is needed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnxruntime  # noqa: F401 - its code is there before anything is measured
import psutil

from visionmesh.contracts import Frozen
from visionmesh.models.running import Running
from visionmesh.models.spec import ModelSpec
from visionmesh.workbench import Workbench


class _Order(Frozen):
    """What the process is to measure."""

    weights: Path
    spec: ModelSpec
    running: Running


def footprint(weights: Path, spec: ModelSpec, running: Running) -> int:
    """Return by how many bytes a process grows with an engine that has run every batch size."""
    order = _Order(weights=weights, spec=spec, running=running)
    told = subprocess.run(
        [sys.executable, "-m", __name__],
        input=order.model_dump_json(),
        capture_output=True,
        check=True,
        text=True,
    )
    return int(told.stdout)


def _measure(order: _Order) -> int:
    bench, process = Workbench(order.spec), psutil.Process()
    before: int = process.memory_info().rss
    engine = order.running.open(bench, order.weights)
    grown: int = process.memory_info().rss - before
    engine.close()
    return grown


if __name__ == "__main__":
    sys.stdout.write(f"{_measure(_Order.model_validate_json(sys.stdin.read()))}\n")
