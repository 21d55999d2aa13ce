"""How much memory a network needs, measured in a process of its own.

In a process that has freed memory before, what is freed hides what is needed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnxruntime  # noqa: F401 - its code is there before anything is measured
import psutil

from visionmesh.models.spec import ModelSpec
from visionmesh.workbench import Workbench


def footprint(weights: Path, spec: ModelSpec) -> int:
    """Return by how many bytes a process grows with an engine that has run every batch size."""
    command = [sys.executable, "-m", __name__, str(weights)]
    told = subprocess.run(
        command, input=spec.model_dump_json(), capture_output=True, check=True, text=True
    )
    return int(told.stdout)


def _measure(weights: Path, spec: ModelSpec) -> int:
    bench, process = Workbench(spec), psutil.Process()
    before: int = process.memory_info().rss
    engine = bench.open(weights)
    grown: int = process.memory_info().rss - before
    engine.close()
    return grown


if __name__ == "__main__":
    spec = ModelSpec.model_validate_json(sys.stdin.read())
    sys.stdout.write(f"{_measure(Path(sys.argv[1]), spec)}\n")
