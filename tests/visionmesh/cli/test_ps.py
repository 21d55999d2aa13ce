"""`visionmesh ps` tells what versions take, and which sleep."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.workers import make_loaded, make_record
from visionmesh.cli import options
from visionmesh.cli.app import build
from visionmesh.nodes import NodeRecord

LOADED = make_loaded(
    "cats", "cuda", version=2, memory_bytes=120_000_000, device_memory={"GPU-1": 1_500_000_000}
)
WORKER = make_record(
    "box",
    models={"cats": (2,), "dogs": (1,)},
    loaded=(LOADED,),
    asleep={"dogs/1": "it gave way to version 2 of cats"},
)


def test_memory_of_gpus_and_versions_that_sleep_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nodes() -> list[NodeRecord]:
        return [WORKER]

    @asynccontextmanager
    async def client(*_: Any) -> AsyncIterator[SimpleNamespace]:
        yield SimpleNamespace(nodes=nodes)

    monkeypatch.setattr(options, "client", client)
    told = CliRunner().invoke(build(), ["ps"]).output
    assert "120 MB + 1.5 GB of GPU" in told
    assert "dogs/1 sleeps on box (77): it gave way to version 2 of cats\n" in told
