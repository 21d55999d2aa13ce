"""Waiting until the mesh serves what was pushed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from nats.aio.client import Client

from visionmesh.cli import options
from visionmesh.cli.console import aside
from visionmesh.errors import Code, Refused, Retry
from visionmesh.models.record import ModelRecord
from visionmesh.nodes import PERIOD, NodeRecord, list_nodes, version_key

_POLL = timedelta(milliseconds=200)

Failures = dict[str, str]
"""Why a worker cannot run or decode a version, by ``worker/model/version``."""


@dataclass(frozen=True)
class Pushed:
    """A model as it was stored; nothing is tried anew where that ``changed`` nothing."""

    record: ModelRecord
    changed: bool


@asynccontextmanager
async def served(
    nats: str | None, state: Path | None, *, within: timedelta
) -> AsyncIterator[list[Pushed]]:
    """Return from the block when what was put into the list is served; 0 does not wait.

    Without an infer worker nothing is waited for, and the user is told.

    Raises
    ------
    Refused
        (model_failed) if no infer worker can load a model, or a postprocess worker cannot decode
        it; (model_not_ready) if that is not known in time.
    """
    pushed: list[Pushed] = []
    connection = await options.connection(nats, state)
    try:
        # What failed before this push may be told again until a worker has tried anew.
        before = _failures(await list_nodes(connection.client))
        yield pushed
        if within > timedelta(0):
            await _until_served(connection.client, pushed, before=before, within=within)
    finally:
        await connection.close()


async def _until_served(
    client: Client, pushed: Sequence[Pushed], *, before: Failures, within: timedelta
) -> None:
    began = time.monotonic()
    deadline = began + within.total_seconds()
    believed = began + PERIOD.total_seconds()
    while True:
        late = time.monotonic() > deadline
        try:
            nodes = await list_nodes(client)
        except Retry:
            # All of the machine may be at work on loading.
            if late:
                raise
            await asyncio.sleep(_POLL.total_seconds())
            continue
        if not _infer_workers(nodes):
            # A busy worker may be late with its record.
            if time.monotonic() < believed:
                await asyncio.sleep(_POLL.total_seconds())
                continue
            aside().print("No infer worker is there: the first one that starts loads it.")
            return
        for one in pushed:
            _require_hope(nodes, one.record, known=before if one.changed and not late else {})
        waiting = [one.record for one in pushed if not _is_served(nodes, one.record)]
        if not waiting:
            return
        if all(_is_for_others(nodes, record) for record in waiting):
            names = ", ".join(record.spec.name for record in waiting)
            aside().print(f"{names}: no node has its devices; the first one that does loads it.")
            return
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
    """Say whether an infer worker has the versions, and the others have heard of them.

    A postprocess worker tells what it cannot decode as soon as it has.
    """
    name, wanted = record.spec.name, set(record.wanted)
    loaded = any(
        wanted <= {*worker.models.get(name, ())} and _has_applied(worker, record)
        for worker in _infer_workers(nodes)
    )
    doors = [node for node in nodes if node.stage == "ingest" and node.ready]
    heard = all(wanted <= {*door.heard.get(name, ())} for door in doors)
    decoding = [node for node in nodes if node.stage == "postprocess"]
    return loaded and heard and all(_has_applied(node, record) for node in decoding)


def _has_applied(node: NodeRecord, record: ModelRecord) -> bool:
    """Say whether a worker has made of a record what it could; older ones do not tell."""
    return node.applied is None or node.applied.get(record.spec.name, 0) >= record.revision


def _failures(nodes: Sequence[NodeRecord]) -> Failures:
    return {f"{node.key}/{version}": why for node in nodes for version, why in node.failed.items()}


def _require_hope(nodes: Sequence[NodeRecord], record: ModelRecord, *, known: Failures) -> None:
    """Raise `Refused` if a wanted version fails in all infer workers, or a postprocess worker."""
    for number in record.wanted:
        version = version_key(record.spec.name, number)
        why = {
            node.key: node.failed[version]
            for node in nodes
            if version in node.failed and known.get(f"{node.key}/{version}") != node.failed[version]
        }
        decoders = [node for node in nodes if node.stage == "postprocess" and node.key in why]
        engines = [node for node in _infer_workers(nodes) if not _leaves(node, record)]
        if decoders or (engines and all(node.key in why for node in engines)):
            raise Refused(
                Code.MODEL_FAILED,
                f"Version {number} of {record.spec.name} is stored, but cannot be served: "
                f"{why[(decoders or engines)[0].key]}",
            )


def _is_for_others(nodes: Sequence[NodeRecord], record: ModelRecord) -> bool:
    return all(_leaves(node, record) for node in _infer_workers(nodes))


def _leaves(node: NodeRecord, record: ModelRecord) -> bool:
    """Say whether a worker has seen the model, and leaves it to nodes with other devices."""
    name = record.spec.name
    known = node.applied is not None and _has_applied(node, record)
    failed = any(version_key(name, number) in node.failed for number in record.versions)
    return known and name not in node.models and not failed
