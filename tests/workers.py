"""What workers tell of themselves, with everything that a test does not care about filled in."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

from visionmesh.nodes import LoadedVersion, NodeRecord

_numbers = itertools.count()


def make_loaded(model: str, *devices: str, **changes: Any) -> LoadedVersion:
    """Return a version that runs on ``devices``."""
    fields: dict[str, Any] = {
        "version": 1,
        "engine": "onnxruntime",
        "precision": "fp32",
        "copies": 1,
        "memory_bytes": 1,
        "since": datetime.now(UTC),
    }
    return LoadedVersion(model=model, devices=devices, **(fields | changes))


def make_record(node: str, **changes: Any) -> NodeRecord:
    """Return what an infer worker on ``node`` tells that no other call returns."""
    fields: dict[str, Any] = {
        "stage": "infer",
        "pid": 77,
        "worker": f"worker-{next(_numbers)}",
        "since": datetime.now(UTC),
    }
    return NodeRecord(node=node, **(fields | changes))


def running(model: str, *devices: str) -> dict[str, Any]:
    """Return what an infer worker tells that runs ``model`` on GPUs, given by UUID, or the CPU."""
    gpus = tuple(device for device in devices if device != "cpu")
    version = make_loaded(model, *devices, device_memory=dict.fromkeys(gpus, 1))
    return {"models": {model: (1,)}, "loaded": (version,), "devices": gpus}
