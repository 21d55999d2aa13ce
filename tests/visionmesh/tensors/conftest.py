"""Arenas of the tests lie in the real shared memory, and nothing of them may stay there."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

SHM = Path("/dev/shm")


@pytest.fixture
def prefix() -> Iterator[str]:
    """What the names of a test's arenas begin with; afterwards none of them may exist."""
    prefix = f"visionmesh-test-{uuid.uuid4().hex[:12]}-"
    yield prefix
    assert list(SHM.glob(f"{prefix}*")) == []
