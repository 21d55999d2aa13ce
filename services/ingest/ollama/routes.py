"""Ollama's REST API: ``/api`` and ``/``."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from services.ingest.blobs import Blobs
from services.ingest.forms import handlers, plain_refusal
from services.ingest.gateway import Gateway
from services.ingest.models import Models
from services.ingest.ollama.library import Library
from services.ingest.ollama.recognising import Recognising
from visionmesh.errors import Code, VisionmeshError
from visionmesh.settings import Settings

API_VERSION = "0.12.0"
"""Of Ollama: clients ask for it before they use what is younger."""


def build_app(*, gateway: Gateway, models: Models, settings: Settings) -> Starlette:
    """Return the application; uploaded files are kept in the state folder."""
    limits = settings.ingest
    blobs = Blobs(directory=settings.state_dir / "blobs")
    library = Library(models=models, blobs=blobs)
    recognising = Recognising(
        gateway=gateway,
        models=models,
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
        exception_handlers=handlers(_refusal),
    )


async def _running(_: Request) -> Response:
    return PlainTextResponse("Ollama is running")


async def _version(_: Request) -> Response:
    return JSONResponse({"version": API_VERSION})


def _refusal(error: VisionmeshError) -> JSONResponse:
    """Return an error; what is not there is told in the very words that clients look for."""
    if error.code is Code.UNKNOWN_MODEL:
        return JSONResponse({"error": error.message}, 404)
    return plain_refusal(error)
