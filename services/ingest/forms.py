"""How errors look on the wire: one table of status codes, and the forms of the protocols."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from math import ceil
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from services.ingest.callers import Reply
from services.ingest.presence import Gone
from visionmesh.contracts import ErrorInfo
from visionmesh.errors import Code, Refused, VisionmeshError

RETRY_AFTER = "1"
"""Seconds, where nobody knows better."""

_STATUS = {
    Code.INVALID_REQUEST: 400,
    Code.UNAUTHORIZED: 401,
    Code.FORBIDDEN: 403,
    Code.NOT_FOUND: 404,
    Code.REQUEST_TIMEOUT: 408,
    Code.UNSUPPORTED_MEDIA: 415,
    Code.RATE_LIMITED: 429,
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
_PLAIN = frozenset({"/v2", "/api"})
"""Protocols whose errors are a mere text."""
_LATER = frozenset({429, 503})

Refuse = Callable[[VisionmeshError], Response]
Handler = Callable[[Request, Any], Coroutine[Any, Any, Response]]

log = logging.getLogger(__name__)


def status_of(code: Code) -> int:
    """Return the HTTP status of an error."""
    return _STATUS.get(code, _UNPROCESSABLE)


def status_of_reply(reply: Reply) -> int:
    """Return the HTTP status of an answer: 200, or that of the error in it."""
    error = None if reply.ok else reply.result().error
    return 200 if error is None else status_of(error.code)


def retry_after(error: VisionmeshError) -> str:
    """Return in how many seconds, at least 1, an error that passes may have passed."""
    wait = error.wait if isinstance(error, Refused) else None
    return RETRY_AFTER if wait is None else str(max(1, ceil(wait.total_seconds())))


def refusal(error: VisionmeshError) -> JSONResponse:
    """Return an error in our own form: ``{"error": {"code": …, "message": …}}``."""
    info = ErrorInfo(code=error.code, message=error.message)
    return _response(error, {"error": info.model_dump(mode="json")})


def plain_refusal(error: VisionmeshError) -> JSONResponse:
    """Return an error as the Open Inference Protocol and Ollama have it: ``{"error": "…"}``."""
    return _response(error, {"error": f"{error.message} [{error.code}]"})


def refusal_of(path: str, error: VisionmeshError) -> JSONResponse:
    """Return an error in the form of the protocol that ``path`` belongs to."""
    plain = path == "/" or first_segment(path) in _PLAIN
    return plain_refusal(error) if plain else refusal(error)


def unforeseen(where: str, error: Exception) -> Refused:
    """Log an error that nobody thought of, and return what a client is told of it.

    Its own text is for the log alone: it may tell of others' requests.
    """
    log.error("%s", where, exc_info=error)
    return Refused(Code.INTERNAL, "Something is wrong with the mesh; see its log.")


def handlers(refuse: Refuse, *, hint: str = "") -> dict[int | type[Exception], Handler]:
    """Return what an application answers where it raises, by status and class.

    ``refuse`` returns an error in the protocol's form; ``hint`` ends what is said of a path at
    which there is nothing.
    """

    async def no_such_path(request: Request, _: Exception) -> Response:
        return refuse(Refused(Code.NOT_FOUND, f"There is nothing at {request.url.path}{hint}."))

    async def other_method(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        allowed = (error.headers or {}).get("Allow", "")
        why = f"{request.url.path} takes {allowed}, not {request.method}."
        response = refuse(Refused(Code.METHOD_NOT_ALLOWED, why))
        response.headers["Allow"] = allowed
        return response

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, VisionmeshError)
        return refuse(error)

    async def broken(request: Request, error: Exception) -> Response:
        if isinstance(error, Gone | ClientDisconnect):
            return Response()  # nobody reads it
        return refuse(unforeseen(f"{request.method} {request.url.path}", error))

    return {404: no_such_path, 405: other_method, VisionmeshError: refused, Exception: broken}


def first_segment(path: str) -> str:
    """Return a path's part that says which protocol it is of, such as ``/v2``."""
    return "/" + path.lstrip("/").partition("/")[0]


def _response(error: VisionmeshError, body: object) -> JSONResponse:
    status = status_of(error.code)
    headers = {"Retry-After": retry_after(error)} if status in _LATER else {}
    return JSONResponse(body, status, headers)
