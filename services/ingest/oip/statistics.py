"""What this worker has answered by the protocol, by model and version, since it was started."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from visionmesh.contracts import Result

_PARTS = {
    "queue": ("preprocess_queue", "infer_queue", "postprocess_queue"),
    "compute_input": ("preprocess",),
    "compute_infer": ("infer",),
    "compute_output": ("postprocess",),
}
"""The protocol's names for what a result's timings tell."""


@dataclass(slots=True)
class _Durations:
    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        self.count += count
        self.ns += ns

    def document(self) -> dict[str, int]:
        return {"count": self.count, "ns": self.ns}


def _durations() -> dict[str, _Durations]:
    names = ("success", "fail", *_PARTS, "cache_hit", "cache_miss")
    return {name: _Durations() for name in names}


@dataclass(slots=True)
class _Served:
    last_ms: int = 0
    images: int = 0
    requests: int = 0
    durations: dict[str, _Durations] = field(default_factory=_durations)


class Statistics:
    """Counts requests; models and versions that are not there must not be counted."""

    def __init__(self) -> None:
        self._served: dict[tuple[str, int], _Served] = {}

    def succeeded(self, model: str, version: int, *, ns: int, results: Sequence[Result]) -> None:
        """Count a request whose images have these ``results``."""
        served = self._of(model, version)
        served.last_ms = time.time_ns() // 1_000_000
        served.images += len(results)
        served.requests += 1
        served.durations["success"].add(ns)
        for result in results:
            hit = result.cache is not None and result.cache.hit
            total = int(result.timings.get("total", 0.0) * 1e6)
            served.durations["cache_hit" if hit else "cache_miss"].add(total)
            for part, names in _PARTS.items():
                told = [result.timings[name] for name in names if name in result.timings]
                if told:
                    served.durations[part].add(int(sum(told) * 1e6))

    def failed(self, model: str, version: int, *, ns: int) -> None:
        self._of(model, version).durations["fail"].add(ns)

    def document(self, model: str, version: int) -> dict[str, Any]:
        """Return the statistics of a version, zeros if it has answered nothing."""
        served = self._served.get((model, version), _Served())
        return {
            "name": model,
            "version": str(version),
            "last_inference": served.last_ms,
            "inference_count": served.images,
            "execution_count": served.requests,
            "inference_stats": {
                name: durations.document() for name, durations in served.durations.items()
            },
            "batch_stats": [],
        }

    def _of(self, model: str, version: int) -> _Served:
        return self._served.setdefault((model, version), _Served())
