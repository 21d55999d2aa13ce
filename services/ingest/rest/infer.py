"""Our own REST interface: one synchronous request in, one result out."""

from __future__ import annotations

import uuid
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.types import Message

from services.ingest.door import Right, caller_of
from services.ingest.forms import refusal, status_of_reply
from services.ingest.gateway import Gateway
from visionmesh.contracts import Params, Result
from visionmesh.errors import Code, Refused, Reject, VisionmeshError
from visionmesh.events import Event, parse_deadline, parse_id, parse_params, parse_priority

FRAMING = 4096
"""Bytes of a form around its file."""
PATIENCE = 4
"""So many times the largest image is read before the connection of a larger one is cut."""

_BINARY = {"type": "string", "format": "binary"}
_PARAMETERS: dict[str, Any] = Params.model_json_schema()["properties"]
_DOCUMENTATION = {
    "parameters": [
        {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}},
        *(
            {"name": name, "in": "query", "required": False, "schema": schema}
            for name, schema in _PARAMETERS.items()
        ),
    ],
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": _BINARY},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {**_PARAMETERS, "image": _BINARY},
                    "required": ["image"],
                }
            },
        },
    },
}
"""Of a route that reads its request itself: declared parameters cost 300 calls a request more."""


def build_app(*, gateway: Gateway, max_bytes: int) -> FastAPI:
    """Return the application of ``/v1``, with its own documentation."""
    app = FastAPI(
        title="visionmesh",
        docs_url="/docs",
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={404: _no_such_path, 405: _other_method},
    )

    @app.post("/v1/models/{model}/infer", response_model=Result, openapi_extra=_DOCUMENTATION)
    async def infer(request: Request) -> Response:
        """Recognise one image: the body itself, or the one file of a multipart form.

        Parameters may also come as fields of the form, or as JSON in the header `Vm-Params`; those
        in the query win, then those of the form. The headers `Vm-Deadline`, `Vm-Priority`, `ce-id`,
        `traceparent` and `tracestate` are read as on an event.
        """
        model = request.path_params["model"]
        try:
            caller_of(request.scope).require(Right.INFER, model)
            await gateway.require(model)
            event = await _event(model, request, max_bytes)
            reply = await gateway.infer(event)
        except VisionmeshError as error:
            gateway.refused(model, error)
            return refusal(error)
        return Response(
            reply.body, status_code=status_of_reply(reply), media_type="application/json"
        )

    return app


async def _no_such_path(request: Request, error: Exception) -> Response:
    return refusal(Refused(Code.NOT_FOUND, f"There is nothing at {request.url.path}; see /docs."))


async def _other_method(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    allowed = (error.headers or {}).get("Allow", "")
    why = f"{request.url.path} takes {allowed}, not {request.method}."
    response = refusal(Refused(Code.METHOD_NOT_ALLOWED, why))
    response.headers["Allow"] = allowed
    return response


async def _event(model: str, request: Request, max_bytes: int) -> Event:
    headers = request.headers
    image, fields = await _image(request, max_bytes)
    return Event(
        id=parse_id(headers["ce-id"]) if "ce-id" in headers else uuid.uuid4().hex,
        source="http",
        model=model,
        image=image,
        params=parse_params(headers.get("vm-params"), {**fields, **request.query_params}),
        priority=parse_priority(headers.get("vm-priority")),
        deadline_ns=parse_deadline(headers.get("vm-deadline")),
        traceparent=headers.get("traceparent"),
        tracestate=",".join(headers.getlist("tracestate")) or None,
    )


async def _image(request: Request, max_bytes: int) -> tuple[bytes, dict[str, str]]:
    """Return the image in the body, and the fields beside it where that is a form.

    Raises `Reject` if it is too large, missing or malformed.
    """
    bounded = _bounded(request, max_bytes)
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return await bounded.body(), {}
    try:
        async with bounded.form(max_files=1) as form:
            fields = {name: value for name, value in form.items() if isinstance(value, str)}
            for value in form.values():
                if isinstance(value, UploadFile):
                    return await value.read(), fields
    except HTTPException as error:
        why = f"The form cannot be read: {error.detail}"
        raise Reject(Code.INVALID_EVENT, why) from error
    raise Reject(Code.EMPTY_BODY, "The form has no file: send the image as a file part.")


def _bounded(request: Request, max_bytes: int) -> Request:
    """Return the request with a body that is refused beyond ``max_bytes``, declared or not.

    Some more is read away first, so that the client hears the refusal and not a reset connection.
    """
    size = 0

    async def receive() -> Message:
        nonlocal size
        message = await request.receive()
        size += len(message.get("body", b""))
        too_large = size > max_bytes + FRAMING
        while too_large and message.get("more_body") and size < PATIENCE * max_bytes:
            message = await request.receive()
            size += len(message.get("body", b""))
        if too_large:
            raise Reject(Code.PAYLOAD_TOO_LARGE, f"At most {max_bytes:,} bytes are taken.")
        return message

    return Request(request.scope, receive)
