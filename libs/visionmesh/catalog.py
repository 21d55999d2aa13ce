"""The models of the mesh as this worker sees them, kept up to date."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import timedelta

from visionmesh.errors import Code, Fatal, Retry
from visionmesh.following import Following
from visionmesh.models.registry import Change, ModelRecord, Registry

NOT_YET = timedelta(milliseconds=500)
"""When to deliver an image again whose model this worker has not heard of."""

_HEARD_WITHIN = timedelta(seconds=5)
"""By then the announcement of a push has come."""

Listener = Callable[[str, ModelRecord | None], Awaitable[None]]


class Catalog:
    """Follows the registry and tells its listeners of each change, one at a time.

    A listener gets the model's name and its record, or `None` when the model was removed. A worker
    that cannot follow any more is unfit: ``failed`` raises `Fatal` then.
    """

    def __init__(self, *, registry: Registry, failed: asyncio.Future[None]) -> None:
        self.registry = registry
        self.revision = 0
        """Of the newest change that was heard, to whatever model."""
        self._failed = failed
        self._models: dict[str, ModelRecord] = {}
        self._listeners: list[Listener] = []
        self._news = asyncio.Event()
        self._following = Following(
            what="the models", changes=registry.watch, note=self._note, fail=self._fail
        )

    def on_change(self, listener: Listener) -> None:
        self._listeners.append(listener)

    async def start(self) -> None:
        """Return when every model that is pushed already was told."""
        await self._following.start()

    async def stop(self) -> None:
        await self._following.stop()

    def names(self) -> list[str]:
        return sorted(self._models)

    def find(self, name: str) -> ModelRecord | None:
        return self._models.get(name)

    async def look_up(self, name: str) -> ModelRecord:
        """Return a model that may have been pushed a moment ago.

        Raises
        ------
        Refused
            (unknown_model) if the registry has none of that name; (mesh_unreachable).
        """
        if name in self._models:
            return self._models[name]
        record = await self.registry.get(name)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_HEARD_WITHIN.total_seconds()):
                while name not in self._models:
                    self._news.clear()
                    await self._news.wait()
        return record

    def admitted(self, name: str, version: int) -> ModelRecord:
        """Return the record of a model that ingest has admitted an image for, and chosen a version.

        Raises
        ------
        Retry
            (model_not_ready) if that is not known here: ingest may have heard of it earlier than
            this worker, or of its removal later. Delivered again, the image is worked on or
            refused.
        """
        record = self._models.get(name)
        if record is None or version not in record.versions:
            raise Retry(
                f"Version {version} of {name!r} is not known here yet, or was removed.",
                delay=NOT_YET,
                code=Code.MODEL_NOT_READY,
            )
        return record

    async def _note(self, change: Change) -> None:
        if change.record is None:
            self._models.pop(change.name, None)
        else:
            self._models[change.name] = change.record
        self.revision = change.revision
        self._news.set()
        for listener in self._listeners:
            await listener(change.name, change.record)

    def _fail(self, error: Fatal) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)
