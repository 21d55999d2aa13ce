"""An access layer of a test's own, without HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.ingest.admission import Admission
from services.ingest.callers import Callers
from services.ingest.gateway import Gateway
from tests.mesh.conftest import CLASSIFIER
from tests.polling import until
from visionmesh.context import open_context
from visionmesh.settings import Settings
from visionmesh.subjects import EVENTS


@asynccontextmanager
async def open_gateway(settings: Settings) -> AsyncIterator[Gateway]:
    async with open_context(settings, stage="ingest", stream=EVENTS) as context:
        callers = Callers(connection=context.connection, reader=context.reader)
        await callers.start()
        await context.catalog.start()
        await context.nodes.start(load=lambda: 0)

        async def ready() -> bool:
            return context.nodes.serving(CLASSIFIER)

        await until(ready)
        yield Gateway(context=context, admission=Admission(context=context), callers=callers)
