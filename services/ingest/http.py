"""The HTTP interface: one synchronous request in, one result out."""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import replace
from datetime import timedelta
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.types import Message

from services.ingest.admission import Admission, Arrival
from services.ingest.callers import Callers, Reply
from visionmesh.context import Context
from visionmesh.contracts import ErrorInfo, Params, Result
from visionmesh.errors import Code, Expired, Refused, Reject, Retry, VisionmeshError
from visionmesh.events import Event, parse_deadline, parse_id, parse_params, parse_priority
from visionmesh.http import App
from visionmesh.subjects import require_token

MAX_TRIES = 3
"""An image that was lost with the process that held it is sent again so often."""
PAUSE = timedelta(milliseconds=100)
"""Before the second try, twice as long before the third."""
RETRY_AFTER = "1"
FRAMING = 4096
"""Bytes of a form around its file."""
PATIENCE = 4
"""So many times the largest image is read before the connection of a larger one is cut."""

_STATUS = {
    Code.UNKNOWN_MODEL: 404,
    Code.UNKNOWN_VERSION: 404,
    Code.PAYLOAD_TOO_LARGE: 413,
    Code.UNSUPPORTED_FORMAT: 415,
    Code.MESH_FULL: 503,
    Code.MODEL_NOT_READY: 503,
    Code.MESH_UNREACHABLE: 503,
    Code.TIMEOUT: 504,
    Code.DEADLINE_PASSED: 504,
    Code.METHOD_NOT_ALLOWED: 405,
    Code.INVALID_NAME: 400,
    Code.INVALID_ID: 400,
    Code.INVALID_EVENT: 400,
    Code.INVALID_DEADLINE: 400,
    Code.INVALID_PARAMS: 400,
    Code.EMPTY_BODY: 400,
    Code.INTERNAL: 500,
    Code.MODEL_FAILED: 500,
}
_UNPROCESSABLE = 422

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


class Gateway:
    """Admits the image of a request and waits for its answer."""

    def __init__(self, *, context: Context, admission: Admission, callers: Callers) -> None:
        self._context = context
        self._admission = admission
        self._callers = callers
        self._settings = context.settings.ingest

    async def infer(self, event: Event) -> Reply:
        """Return the answer to ``event``; raise what kept it from being computed.

        What no one waits for any more is not computed: the patience is the image's deadline.
        """
        patience = self._settings.request_timeout
        if event.deadline_ns is not None:
            left = timedelta(microseconds=(event.deadline_ns - time.time_ns()) / 1e3)
            patience = min(patience, max(left, timedelta(0)))
        given_up_ns = time.time_ns() + patience // timedelta(microseconds=1) * 1000
        event = replace(event, deadline_ns=min(event.deadline_ns or given_up_ns, given_up_ns))
        try:
            async with asyncio.timeout(patience.total_seconds()):
                return await self._infer(event)
        except TimeoutError as error:
            if patience < self._settings.request_timeout:
                raise Expired from error
            raise Refused(
                Code.TIMEOUT, f"No answer within {patience.total_seconds():g} s; try again later."
            ) from error

    async def require(self, model: str) -> None:
        """Raise `Refused` if an image for ``model`` could not be worked on now."""
        await self._context.catalog.look_up(require_token("model", model))
        if len(self._callers) >= self._settings.max_requests:
            raise Refused(Code.MESH_FULL, "Too many requests are being worked on; try again.")
        if not self._context.nodes.serving(model):
            why = self._context.nodes.failure(model) or (
                "no infer worker has loaded it yet; try again, or look at `visionmesh ps`."
            )
            raise Refused(Code.MODEL_NOT_READY, f"The model {model!r} is not ready: {why}")

    def refused(self, model: str, error: VisionmeshError) -> None:
        """Count a request that ends in ``error``; models that are not there count as one."""
        known = model if self._context.catalog.find(model) is not None else ""
        status = "expired" if isinstance(error, Expired) else "error"
        self._context.metrics.model(known).done(status, error.code)

    async def _infer(self, event: Event) -> Reply:
        for attempt in range(1, MAX_TRIES + 1):
            subject, answer = self._callers.open()
            arrival = Arrival(
                event=event, received_ns=time.time_ns(), reply=subject, attempt=attempt
            )
            reference = self._admission.reference(arrival)
            trail = self._context.trail(reference)
            reply: Reply | None = None
            try:
                known = await self._admission.admit(reference, event.image, trail)
                self._context.finished(event.model, trail, "ok")
                if known is None:
                    reply = await answer
                    return reply
                self._context.settlement.ended(reference, known)
                reply = Reply.of(known)
                return reply
            except Retry as error:
                trail.fail(error.code)
                self._context.metrics.redelivered()
                last = error
                await asyncio.sleep(attempt * PAUSE.total_seconds())
            finally:
                trail.close()
                self._callers.close(subject)
                self._admission.landed(subject, reply.body if reply is not None else None)
        raise Reject(
            Code.TOO_MANY_ATTEMPTS, f"Given up after {MAX_TRIES} attempts; the last: {last.message}"
        )


def build_app(*, gateway: Gateway, status: App, max_bytes: int) -> FastAPI:
    """Return the application: inference, and ``status`` for everything else."""
    app = FastAPI(
        title="visionmesh",
        docs_url="/docs",
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={405: _other_method},
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
            await gateway.require(model)
            event = await _event(model, request, max_bytes)
            reply = await gateway.infer(event)
        except VisionmeshError as error:
            gateway.refused(model, error)
            return _refusal(error)
        return Response(reply.body, status_code=_status(reply), media_type="application/json")

    # Not mounted: a mount at / would answer for the paths above when the method is another.
    app.router.default = status
    return app


async def _other_method(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    allowed = (error.headers or {}).get("Allow", "")
    why = f"{request.url.path} takes {allowed}, not {request.method}."
    response = _refusal(Refused(Code.METHOD_NOT_ALLOWED, why))
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


def _status(reply: Reply) -> int:
    error = None if reply.ok else reply.result().error
    return 200 if error is None else _STATUS.get(error.code, _UNPROCESSABLE)


def _refusal(error: VisionmeshError) -> Response:
    status = _STATUS.get(error.code, _UNPROCESSABLE)
    info = ErrorInfo(code=error.code, message=error.message)
    headers = {"Retry-After": RETRY_AFTER} if status == _STATUS[Code.MESH_FULL] else {}
    return JSONResponse({"error": info.model_dump(mode="json")}, status, headers)


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
