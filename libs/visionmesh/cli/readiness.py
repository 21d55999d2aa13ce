"""Waiting until the mesh serves what was pushed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from nats.aio.client import Client

from visionmesh.cli import options
from visionmesh.cli.console import aside
from visionmesh.errors import Code, Refused
from visionmesh.models.record import ModelRecord
from visionmesh.nodes import NodeRecord, list_nodes

_POLL = timedelta(milliseconds=200)

Failures = dict[str, str]
"""Why a worker cannot load a version, by ``worker/model/version``."""


@asynccontextmanager
async def served(
    nats: str | None, state: Path | None, *, within: timedelta
) -> AsyncIterator[list[ModelRecord]]:
    """Return from the block when what was put into the list is served; 0 does not wait.

    Without an infer worker nothing is waited for, and the user is told.

    Raises
    ------
    Refused
        (model_failed) if no infer worker can load a model; (model_not_ready) if none has in time.
    """
    pushed: list[ModelRecord] = []
    connection = await options.connection(nats, state)
    try:
        # What failed before this push may be told again until a worker has tried anew.
        before = _failures(_infer_workers(await list_nodes(connection.client)))
        yield pushed
        if within > timedelta(0):
            await _until_served(connection.client, pushed, before=before, within=within)
    finally:
        await connection.close()


async def _until_served(
    client: Client, pushed: Sequence[ModelRecord], *, before: Failures, within: timedelta
) -> None:
    deadline = time.monotonic() + within.total_seconds()
    while True:
        nodes = await list_nodes(client)
        workers = _infer_workers(nodes)
        if not workers:
            aside().print("No infer worker is there: the first one that starts loads it.")
            return
        waiting = [record for record in pushed if not _is_served(nodes, record)]
        if not waiting:
            return
        late = time.monotonic() > deadline
        for record in waiting:
            _require_hope(workers, record, known={} if late else before)
        if late:
            names = ", ".join(record.spec.name for record in waiting)
            raise Refused(
                Code.MODEL_NOT_READY,
                f"{names} is not served after {within.total_seconds():g} s; "
                "it is stored, and the workers go on: see `visionmesh ps`.",
            )
        await asyncio.sleep(_POLL.total_seconds())


def _infer_workers(nodes: Sequence[NodeRecord]) -> list[NodeRecord]:
    return [node for node in nodes if node.stage == "infer"]


def _is_served(nodes: Sequence[NodeRecord], record: ModelRecord) -> bool:
    """Say whether an infer worker has the versions, and every ingest worker has heard of it."""
    name, wanted = record.spec.name, set(record.wanted)
    loaded = any(wanted <= {*worker.models.get(name, ())} for worker in _infer_workers(nodes))
    doors = [node for node in nodes if node.stage == "ingest" and node.ready]
    return loaded and all(wanted <= {*door.heard.get(name, ())} for door in doors)


def _failures(workers: Sequence[NodeRecord]) -> Failures:
    return {
        f"{worker.key}/{version}": why
        for worker in workers
        for version, why in worker.failed.items()
    }


def _require_hope(workers: Sequence[NodeRecord], record: ModelRecord, *, known: Failures) -> None:
    """Raise `Refused` if every worker says that it cannot load a wanted version."""
    reasons = []
    for worker in workers:
        for number in record.wanted:
            version = f"{record.spec.name}/{number}"
            why = worker.failed.get(version)
            if why is not None and known.get(f"{worker.key}/{version}") != why:
                reasons.append((number, why))
                break
    if len(reasons) == len(workers):
        number, why = reasons[0]
        raise Refused(
            Code.MODEL_FAILED,
            f"Version {number} of {record.spec.name} is stored, but cannot be loaded: {why}",
        )
