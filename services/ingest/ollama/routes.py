"""Ollama's REST API: ``/api`` and ``/``."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from services.ingest.blobs import Blobs
from services.ingest.forms import plain_refusal
from services.ingest.gateway import Gateway
from services.ingest.models import Models
from services.ingest.ollama.library import Library
from services.ingest.ollama.recognising import Recognising
from services.ingest.presence import Gone
from visionmesh.errors import Code, Refused, VisionmeshError
from visionmesh.settings import Settings

API_VERSION = "0.12.0"
"""Of Ollama: clients ask for it before they use what is younger."""

GONE = 499
"""What Ollama notes of a client that has hung up."""


def build_app(*, gateway: Gateway, models: Models, settings: Settings) -> Starlette:
    """Return the application; uploaded files are kept in the state folder."""
    limits = settings.ingest
    blobs = Blobs(directory=settings.state_dir / "blobs")
    library = Library(models=models, blobs=blobs, max_bytes=limits.max_request_bytes)
    recognising = Recognising(
        gateway=gateway,
        models=models,
        max_bytes=limits.max_request_bytes,
        max_image_bytes=limits.max_image_bytes,
    )
    return Starlette(
        routes=[
            Route("/", _running),
            Route("/api/version", _version),
            Route("/api/generate", recognising.generate, methods=["POST"]),
            Route("/api/chat", recognising.chat, methods=["POST"]),
            Route("/api/embed", recognising.embed, methods=["POST"]),
            Route("/api/embeddings", recognising.embeddings, methods=["POST"]),
            Route("/api/tags", library.tags),
            Route("/api/ps", library.running),
            Route("/api/show", library.show, methods=["POST"]),
            Route("/api/create", library.create, methods=["POST"]),
            Route("/api/copy", library.copy, methods=["POST"]),
            Route("/api/delete", library.delete, methods=["DELETE"]),
            Route("/api/pull", library.pull, methods=["POST"]),
            Route("/api/push", library.push, methods=["POST"]),
            Route("/api/blobs/{digest}", library.has_blob, methods=["HEAD"]),
            Route("/api/blobs/{digest}", library.store_blob, methods=["POST"]),
        ],
        exception_handlers={
            404: _no_such_path,
            405: _other_method,
            VisionmeshError: _refusal,
            Gone: _gone,
            ClientDisconnect: _gone,
        },
    )


async def _running(_: Request) -> Response:
    return PlainTextResponse("Ollama is running")


async def _version(_: Request) -> Response:
    return JSONResponse({"version": API_VERSION})


async def _no_such_path(request: Request, _: Exception) -> Response:
    return plain_refusal(Refused(Code.NOT_FOUND, f"There is nothing at {request.url.path}."))


async def _other_method(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    allowed = (error.headers or {}).get("Allow", "")
    why = f"{request.url.path} takes {allowed}, not {request.method}."
    response = plain_refusal(Refused(Code.METHOD_NOT_ALLOWED, why))
    response.headers["Allow"] = allowed
    return response


async def _refusal(_: Request, error: Exception) -> Response:
    """Return an error; what is not there is told in the very words that clients look for."""
    assert isinstance(error, VisionmeshError)
    if error.code is Code.UNKNOWN_MODEL:
        return JSONResponse({"error": error.message}, 404)
    return plain_refusal(error)


async def _gone(_: Request, __: Exception) -> Response:
    """Return what nobody reads."""
    return Response(status_code=GONE)
