"""Who is there: every worker tells its state every two seconds, and watches the others."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js.api import KeyValueConfig, StorageType
from nats.js.kv import KeyValue
from pydantic import ValidationError

from visionmesh.errors import Code, Retry
from visionmesh.node_records import (
    LoadedVersion,
    NodeRecord,
    agreed,
    all_read,
    least_backlog,
    outdated_of,
    places_of,
    serving,
    staffed,
    undecodable_of,
    version_key,
    versions_of,
)
from visionmesh.routing import Place
from visionmesh.subjects import ANY_LANE, NODES_BUCKET
from visionmesh.tasks import end

__all__ = [
    "PERIOD",
    "LoadedVersion",
    "NodeRecord",
    "Nodes",
    "list_nodes",
    "nodes_bucket",
    "version_key",
]

PERIOD = timedelta(seconds=2)
ALIVE = timedelta(seconds=7)
"""A worker that has said nothing for so long is taken for gone."""

log = logging.getLogger(__name__)


async def nodes_bucket(nc: Client) -> KeyValue:
    """Return the bucket of workers; create it if it is not there."""
    js = nc.jetstream()
    config = KeyValueConfig(
        bucket=NODES_BUCKET, ttl=ALIVE.total_seconds(), storage=StorageType.MEMORY
    )
    try:
        return await js.create_key_value(config)
    except nats.js.errors.BadRequestError:
        return await js.key_value(NODES_BUCKET)


async def list_nodes(nc: Client) -> list[NodeRecord]:
    """Return the workers that are alive, by stage and node.

    Raises
    ------
    Retry
        If the server does not answer now (mesh_unreachable).
    """
    records = []
    try:
        bucket = await nodes_bucket(nc)
        for key in await bucket.keys():
            # Gone meanwhile, or the record of a worker of another release.
            with contextlib.suppress(nats.js.errors.KeyNotFoundError, ValidationError):
                entry = await bucket.get(key)
                records.append(NodeRecord.model_validate_json(entry.value or b""))
    except nats.js.errors.NoKeysError:
        return []
    except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as error:
        raise Retry(
            "The NATS server does not tell its workers now.", code=Code.MESH_UNREACHABLE
        ) from error
    return sorted(records, key=lambda record: record.key)


class Nodes:
    """This worker's record, and the view of all others."""

    def __init__(self, *, nc: Client, node: str, stage: str, device: str = "cpu") -> None:
        self._nc = nc
        self._node = node
        self._record = NodeRecord(
            node=node,
            stage=stage,
            pid=os.getpid(),
            worker=secrets.token_hex(4),
            since=datetime.now(UTC),
            device=device,
            applied={},
        )
        self._seen: dict[str, tuple[float, NodeRecord]] = {}
        self._versions: dict[str, frozenset[int]] = {}
        self._staffed: dict[str, bool] = {}
        self._all_read: dict[tuple[str | None, ...], bool] = {}
        """What `versions`, `staffed` and `all_read` return, until something is heard."""
        self._load: Callable[[], float] = lambda: 0.0
        self._listeners: list[Callable[[], None]] = []
        self._tasks: list[asyncio.Task[None]] = []

    def on_change(self, listener: Callable[[], None]) -> None:
        """Have ``listener`` called whenever a worker was heard of."""
        self._listeners.append(listener)

    async def start(self, *, load: Callable[[], float]) -> None:
        """Begin to announce and to watch; ``load`` returns the images in hand."""
        self._load = load
        self._bucket = await nodes_bucket(self._nc)
        self._tasks = [
            asyncio.create_task(self._announce_always(), name="announce"),
            asyncio.create_task(self._watch(), name="watch nodes"),
        ]

    async def update(self, **changes: object) -> None:
        """Change fields of this worker's record and tell it at once."""
        self._record = self._record.model_copy(update=changes)
        if self._tasks:
            await self._announce()

    def lane(self, stage: str, model: str | None = None) -> str:
        """Return the lane to a ``stage``: this node's, if a worker there serves ``model``."""
        for _, record in self._seen.values():
            if (
                record.stage == stage
                and record.node == self._node
                and record.ready
                and (model is None or model in record.models)
            ):
                return self._node
        return ANY_LANE

    def all_read(
        self, uuid: str, *, stage: str, model: str | None = None, reduced: str | None = None
    ) -> bool:
        """Say whether all workers of ``stage`` on this node read from the memory of a GPU.

        With ``model`` only those are meant that serve it, and they must run it on that GPU alone;
        with ``reduced``, a `version_key`, they must reduce the version's outputs there.
        """
        key = (uuid, stage, model, reduced)
        if key not in self._all_read:
            self._all_read[key] = all_read(
                self._records(), uuid, node=self._node, stage=stage, model=model, reduced=reduced
            )
        return self._all_read[key]

    def serving(self, model: str) -> bool:
        """Say whether an infer worker anywhere has ``model`` loaded and warm."""
        return bool(serving(self._records(), model))

    def staffed(self, model: str) -> bool:
        """Say whether every stage has a worker that can take images of ``model``.

        One of infer can if it has told that it serves the model, or that it could not load it and
        will refuse them.
        """
        if model not in self._staffed:
            self._staffed[model] = staffed(self._records(), model)
        return self._staffed[model]

    def versions(self, model: str) -> frozenset[int]:
        """Return the versions that images of ``model`` can be given to.

        That is what all its infer workers have and all postprocess workers can decode. Where infer
        workers have nothing in common, it is what some have and none has failed to load: the others
        load it with its first image.
        """
        if model not in self._versions:
            self._versions[model] = versions_of(self._records(), model)
        return self._versions[model]

    def agreed(self, model: str, revision: int) -> bool:
        """Say whether all workers that run and decode tell what they made of this very record.

        What they tell of ``model`` else, its failures among that, may still be of another one.
        Workers of a release that tells no revisions are not waited for.
        """
        return agreed(self._records(), model, revision)

    def outdated(self, model: str) -> frozenset[int]:
        """Return the versions that run as they were, as what replaced them cannot be loaded."""
        return outdated_of(self._records(), model)

    def undecodable(self, model: str) -> frozenset[int]:
        """Return the versions whose outputs some postprocess worker cannot decode."""
        return undecodable_of(self._records(), model)

    def places(self, model: str) -> dict[str, Place]:
        """Return the nodes whose infer workers serve ``model``."""
        return places_of(self._records(), model)

    def _records(self) -> list[NodeRecord]:
        return [record for _, record in self._seen.values()]

    def backlog(self, model: str) -> timedelta:
        """Return for how long the least busy worker of ``model`` has something to do."""
        return least_backlog(serving(self._records(), model), model)

    def failure(self, model: str) -> str | None:
        """Return why a worker could not load ``model``, if one said so."""
        return next(
            (
                why
                for _, record in self._seen.values()
                for version, why in record.failed.items()
                if version.startswith(f"{model}/")
            ),
            None,
        )

    async def _announce(self) -> None:
        self._record = self._record.model_copy(update={"load": self._load()})
        try:
            await self._bucket.put(self._record.key, self._record.model_dump_json().encode())
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as error:
            log.warning("cannot announce this worker: %s", str(error) or type(error).__name__)
            await self._find_bucket()

    async def _find_bucket(self) -> None:
        """Make the bucket again: a restarted server has lost it with its memory."""
        with contextlib.suppress(nats.errors.Error, nats.js.errors.Error, TimeoutError):
            self._bucket = await nodes_bucket(self._nc)

    async def _announce_always(self) -> None:
        while True:
            await self._announce()
            await asyncio.sleep(PERIOD.total_seconds())
            self._forget_the_gone()

    def _forget_the_gone(self) -> None:
        horizon = time.monotonic() - ALIVE.total_seconds()
        for key in [key for key, (seen, _) in self._seen.items() if seen < horizon]:
            self._hear(key, None)

    async def _watch(self) -> None:
        while True:
            try:
                watcher = await self._bucket.watchall()
                try:
                    while True:
                        entry = await watcher.updates(timeout=ALIVE.total_seconds())
                        if entry is not None:
                            self._note(entry.key, entry.value)
                finally:
                    await watcher.stop()
            except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as error:
                log.info("watching the nodes again: %s", str(error) or type(error).__name__)
                await asyncio.sleep(PERIOD.total_seconds())

    def _note(self, key: str, value: bytes | None) -> None:
        try:
            self._hear(key, NodeRecord.model_validate_json(value) if value else None)
        except ValidationError as error:
            log.warning("the record of %s is of another release: %s", key, error)

    def _hear(self, key: str, record: NodeRecord | None) -> None:
        self._versions.clear()
        self._staffed.clear()
        self._all_read.clear()
        if record is None:
            self._seen.pop(key, None)
        else:
            self._seen[key] = (time.monotonic(), record)
        for listener in self._listeners:
            listener()

    async def stop(self) -> None:
        """Withdraw the record."""
        await end(self._tasks)
        if self._tasks and self._nc.is_connected:
            with contextlib.suppress(nats.errors.Error, nats.js.errors.Error, TimeoutError):
                await self._bucket.delete(self._record.key)
        self._tasks = []
