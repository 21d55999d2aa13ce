"""Images in, their events' ids out: the results come later."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Request, Response
from pydantic import Field

from services.ingest import cloud
from services.ingest.door import Right, caller_of
from services.ingest.forms import refusal
from services.ingest.gateway import Gateway
from services.ingest.presence import while_present
from services.ingest.rest import documents
from services.ingest.rest.asked import events_of, read_asked
from services.ingest.urls import Urls
from visionmesh import subjects
from visionmesh.bus import Publisher
from visionmesh.catalog import Catalog
from visionmesh.contracts import Frozen, Params
from visionmesh.errors import Code, Reject, VisionmeshError
from visionmesh.events import Event
from visionmesh.publishing import once

WITHIN = timedelta(seconds=10)
"""How long an event may take to be stored."""
_CLOUD = "application/cloudevents"

_ERRORS = (
    Code.INVALID_REQUEST,
    Code.INVALID_EVENT,
    Code.UNKNOWN_MODEL,
    Code.UNSUPPORTED_MEDIA,
    Code.URL_REFUSED,
    Code.RATE_LIMITED,
    Code.MESH_UNREACHABLE,
)


class Accepted(Frozen):
    """An event that is stored; its one result will be at ``location``."""

    id: str
    source: str
    location: str


class _Query(Params):
    source: str | None = Field(
        None, pattern=documents.NAME, description="Where it is from; by default the event says so."
    )


def event_routes(
    *, gateway: Gateway, publisher: Publisher, catalog: Catalog, urls: Urls
) -> APIRouter:
    """Return the route that stores events."""
    router = APIRouter()

    @router.post(
        "/v1/models/{model}/events",
        status_code=202,
        response_model=Accepted,
        responses=documents.errors(*_ERRORS),
        openapi_extra=documents.of_images(most=1, query=_Query, cloud=True),
    )
    async def publish(request: Request) -> Response:
        """Store an image event; its result comes later.

        The body is an image as for `infer`, one only, or a CloudEvent: in binary mode, with its
        attributes as `ce-` headers, or in structured mode, `application/cloudevents+json`. A second
        event with the same model, source and id within two minutes is the first one.
        """
        model = request.path_params["model"]
        try:
            caller = caller_of(request.scope)
            caller.require(Right.PUBLISH, model)
            await catalog.look_up(subjects.require_token("model", model))
            event = await _event(request, model, urls)
            await caller.spend(1)
            await while_present(request.receive, _store(event, publisher))
        except VisionmeshError as error:
            gateway.refused(model, error)
            return refusal(error)
        return _accepted(event)

    return router


async def _event(request: Request, model: str, urls: Urls) -> Event:
    query = dict(request.query_params)
    source = query.pop("source", None)
    if request.headers.get("content-type", "").lower().startswith(_CLOUD) or (
        "ce-specversion" in request.headers
    ):
        body = await request.body()
        return cloud.read(model=model, headers=request.headers, body=body, source=source)
    asked = await read_asked(request, urls)
    if len(asked.images) > 1:
        raise Reject(Code.INVALID_REQUEST, "An event has one image; send several requests.")
    if not asked.images[0].content:
        raise Reject(Code.EMPTY_BODY, "The body is empty: send the encoded image itself.")
    (event,) = events_of(request, model, asked, query=query, source=source)
    return event


async def _store(event: Event, publisher: Publisher) -> None:
    subject = subjects.event(event.model, event.source)
    await publisher.publish(subject, event.image, headers=once(event), within=WITHIN)


def _accepted(event: Event) -> Response:
    query = urlencode({"model": event.model, "source": event.source})
    location = f"/v1/results/{quote(event.id, safe='')}?{query}"
    body = Accepted(id=event.id, source=event.source, location=location).model_dump_json()
    return Response(body, 202, {"Location": location}, media_type="application/json")
