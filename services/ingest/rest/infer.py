"""Images in, results out, in one request."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from services.ingest.door import Right, caller_of
from services.ingest.forms import refusal, status_of_reply
from services.ingest.gateway import AT_ONCE, Gateway
from services.ingest.presence import while_present
from services.ingest.rest import documents
from services.ingest.rest.asked import Asked, events_of, read_asked
from services.ingest.rest.pictures import JSON, PICTURES, Pictures, wanted
from services.ingest.urls import Urls
from visionmesh.contracts import Frozen, Result
from visionmesh.errors import Code, Reject, VisionmeshError

_ERRORS = documents.errors(
    Code.INVALID_REQUEST,
    Code.UNKNOWN_MODEL,
    Code.UNSUPPORTED_FORMAT,
    Code.UNSUPPORTED_MEDIA,
    Code.NOT_AN_IMAGE,
    Code.BROKEN_IMAGE,
    Code.IMAGE_TOO_LARGE,
    Code.URL_REFUSED,
    Code.RATE_LIMITED,
    Code.MODEL_NOT_READY,
    Code.DEADLINE_PASSED,
    Code.TIMEOUT,
    model=Result | documents.ErrorDocument,
)
"""An image that was worked on has a result, also where that is an error."""
_ANSWER: dict[str, Any] = {
    "description": "What was recognised; or the image with that drawn on it.",
    "content": {kind: {"schema": documents.BINARY} for kind in PICTURES},
}


class Results(Frozen):
    """Of several images, in their order; each has its own ``status``."""

    results: tuple[Result, ...]


def infer_routes(*, gateway: Gateway, pictures: Pictures, urls: Urls) -> APIRouter:
    """Return the route that answers with what was recognised."""
    router = APIRouter()

    @router.post(
        "/v1/models/{model}/infer",
        response_model=Result | Results,
        responses={200: _ANSWER, **_ERRORS},
        openapi_extra=documents.of_images(most=AT_ONCE),
    )
    async def infer(request: Request) -> Response:
        """Recognise what is on one image, or on up to 16.

        The body is the image itself, a form with files, or JSON that holds images in base64 or
        names their URLs, one or a list. One image has one result. Several files of a form, and a
        list of JSON, have a list of results; a broken one among them has its error in its result.

        Parameters may also come as fields of the form, as `params` in the JSON, or as JSON in the
        header `Vm-Params`; those in the query win, then those beside the image. With
        `Accept: image/jpeg` or `image/png` the image comes back with its result drawn on it.
        """
        model = request.path_params["model"]
        try:
            caller = caller_of(request.scope)
            caller.require(Right.INFER, model)
            await gateway.require(model)
            asked = await read_asked(request, urls)
            events = events_of(request, model, asked)
            await caller.spend(len(events))
            kind = _kind(request, asked)
            if asked.several:
                replies = await while_present(request.receive, gateway.infer_all(events))
                return _list([reply.body for reply in replies])
            reply = await while_present(request.receive, gateway.infer(events[0]))
            if kind != JSON and reply.ok:
                drawing = pictures.draw(events[0].image, reply.result(), kind)
                return Response(await while_present(request.receive, drawing), media_type=kind)
        except VisionmeshError as error:
            gateway.refused(model, error)
            return refusal(error)
        return Response(reply.body, status_of_reply(reply), media_type=JSON)

    return router


def _kind(request: Request, asked: Asked) -> str:
    kind = wanted(request.headers.get("accept"))
    if asked.several and kind != JSON:
        raise Reject(Code.INVALID_REQUEST, "Only a single image comes back as a picture.")
    return kind


def _list(results: list[bytes]) -> Response:
    body = b'{"results":[' + b",".join(results) + b"]}"
    return Response(body, media_type=JSON)
