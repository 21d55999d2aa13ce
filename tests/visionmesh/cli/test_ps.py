"""`visionmesh ps` tells what versions take, why they run so, and which sleep or are loaded."""

from __future__ import annotations

import re
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
    "cats",
    "cuda",
    version=2,
    memory_bytes=120_000_000,
    device_memory={"GPU-1": 1_500_000_000},
    why="tensorrt on cuda: there is no such operator",
)
WORKER = make_record(
    "box",
    models={"cats": (2,), "dogs": (1,)},
    loaded=(LOADED,),
    asleep={"dogs/1": "it gave way to version 2 of cats"},
    loading={"cats/3": "TensorRT builds its plan: 40%"},
)


def test_memory_of_gpus_and_reasons_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nodes() -> list[NodeRecord]:
        return [WORKER]

    @asynccontextmanager
    async def client(*_: Any) -> AsyncIterator[SimpleNamespace]:
        yield SimpleNamespace(nodes=nodes)

    monkeypatch.setattr(options, "client", client)
    told = CliRunner().invoke(build(), ["ps"]).output
    assert "120 MB + 1.5 GB of GPU" in told
    assert re.search(r"^infer +box +77 .* cuda ", told, re.MULTILINE)
    assert "dogs/1 sleeps on box (77): it gave way to version 2 of cats\n" in told
    assert "cats/3 is being loaded on box (77): TensorRT builds its plan: 40%\n" in told
    assert "cats/2 runs on box (77): tensorrt on cuda: there is no such operator\n" in told
