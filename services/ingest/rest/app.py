"""Our own REST interface: its routes, and its documentation."""

from __future__ import annotations

from fastapi import FastAPI

from services.ingest.forms import handlers, refusal
from services.ingest.gateway import Gateway
from services.ingest.rest.events import event_routes
from services.ingest.rest.infer import infer_routes
from services.ingest.rest.models import model_routes
from services.ingest.rest.pictures import Pictures
from services.ingest.rest.results import Readers, result_routes
from services.ingest.urls import Urls
from visionmesh.context import Context


class Rest:
    """The application of ``/v1``, ``/docs`` and ``/openapi.json``, and what it keeps open."""

    def __init__(self, *, context: Context, gateway: Gateway, urls: Urls) -> None:
        nc = context.connection.client
        self._readers = Readers(connection=context.connection)
        self.app = FastAPI(
            title="visionmesh",
            version="1",
            docs_url="/docs",
            redoc_url=None,
            redirect_slashes=False,
            exception_handlers=handlers(refusal, hint="; see /docs"),
        )
        for router in (
            infer_routes(gateway=gateway, pictures=Pictures(nc=nc), urls=urls),
            event_routes(
                gateway=gateway,
                publisher=context.publisher,
                catalog=context.catalog,
                urls=urls,
            ),
            result_routes(self._readers),
            model_routes(catalog=context.catalog, nodes=context.nodes),
        ):
            self.app.include_router(router)

    def stop(self) -> None:
        """End the streams of results, whose readers come back to another worker."""
        self._readers.stop()
