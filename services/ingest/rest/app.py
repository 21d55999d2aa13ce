"""Our own REST interface: its routes, and its documentation."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from services.ingest.forms import refusal
from services.ingest.gateway import Gateway
from services.ingest.presence import Gone
from services.ingest.rest.events import event_routes
from services.ingest.rest.infer import infer_routes
from services.ingest.rest.models import model_routes
from services.ingest.rest.pictures import Pictures
from services.ingest.rest.results import Readers, result_routes
from services.ingest.urls import Urls
from visionmesh.context import Context
from visionmesh.errors import Code, Refused, VisionmeshError

log = logging.getLogger(__name__)


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
            exception_handlers={
                404: _no_such_path,
                405: _other_method,
                VisionmeshError: _refused,
                Exception: _broken,
            },
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


async def _no_such_path(request: Request, error: Exception) -> Response:
    return refusal(Refused(Code.NOT_FOUND, f"There is nothing at {request.url.path}; see /docs."))


async def _other_method(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    allowed = (error.headers or {}).get("Allow", "")
    why = f"{request.url.path} takes {allowed}, not {request.method}."
    response = refusal(Refused(Code.METHOD_NOT_ALLOWED, why))
    response.headers["Allow"] = allowed
    return response


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, VisionmeshError)
    return refusal(error)


async def _broken(request: Request, error: Exception) -> Response:
    if not isinstance(error, Gone):
        log.error("%s %s", request.method, request.url.path, exc_info=error)
    return refusal(Refused(Code.INTERNAL, "Something is wrong with the mesh; see its log."))
