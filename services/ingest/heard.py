"""Telling what this worker gives images to, for those who wait until it does."""

from __future__ import annotations

import asyncio

from visionmesh.context import Context
from visionmesh.models.record import ModelRecord
from visionmesh.tasks import end


class Heard:
    """Keeps `heard` of this worker's record what the registry and the infer workers say."""

    def __init__(self, *, context: Context) -> None:
        self._catalog = context.catalog
        self._nodes = context.nodes
        self._news = asyncio.Event()
        self._telling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to tell; the catalog must not have been started."""
        self._catalog.on_change(self._model_changed)
        self._nodes.on_change(self._news.set)
        self._telling = asyncio.create_task(self._tell(), name="tell what is heard")

    async def stop(self) -> None:
        if self._telling is not None:
            await end([self._telling])

    async def _model_changed(self, name: str, record: ModelRecord | None) -> None:
        self._news.set()

    async def _tell(self) -> None:
        told: dict[str, tuple[int, ...]] = {}
        while True:
            await self._news.wait()
            self._news.clear()
            heard = {name: self._versions(name) for name in self._catalog.names()}
            if heard != told:
                told = heard
                await self._nodes.update(heard=heard)

    def _versions(self, name: str) -> tuple[int, ...]:
        record = self._catalog.find(name)
        return tuple(sorted(self._nodes.versions(name) & record.versions.keys())) if record else ()
