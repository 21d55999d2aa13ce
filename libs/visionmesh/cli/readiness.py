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
_HEARSAY = timedelta(milliseconds=250)
"""Ingest reads what workers announce at the same moment, and does not say when it has."""

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
        before = _failures(await _infer_workers(connection.client))
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
        workers = await _infer_workers(client)
        if not workers:
            aside().print("No infer worker is there: the first one that starts loads it.")
            return
        waiting = [record for record in pushed if not any(_serves(w, record) for w in workers)]
        if not waiting:
            await asyncio.sleep(_HEARSAY.total_seconds())
            return
        late = time.monotonic() > deadline
        for record in waiting:
            _require_hope(workers, record, known={} if late else before)
        if late:
            names = ", ".join(record.spec.name for record in waiting)
            raise Refused(
                Code.MODEL_NOT_READY,
                f"No infer worker has loaded {names} within {within.total_seconds():g} s; "
                "it is stored, and they go on: see `visionmesh ps`.",
            )
        await asyncio.sleep(_POLL.total_seconds())


async def _infer_workers(client: Client) -> list[NodeRecord]:
    return [node for node in await list_nodes(client) if node.stage == "infer"]


def _serves(worker: NodeRecord, record: ModelRecord) -> bool:
    return set(record.wanted) <= set(worker.models.get(record.spec.name, ()))


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
