"""How many cores this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
"""Quota and period of a container (Linux control groups, version 2)."""


def usable_cores(cpu_max: Path = CPU_MAX) -> int:
    """Return the number of cores that affinity and the container's quota leave; at least 1."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = cpu_max.read_text().split()
    except (OSError, ValueError):
        return allowed
    return allowed if quota == "max" else max(1, min(allowed, math.ceil(int(quota) / int(period))))
