"""The protocol over HTTP."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.ingest.door import Right, caller_of
from services.ingest.forms import handlers, plain_refusal
from services.ingest.gateway import Gateway
from services.ingest.limits import load_of
from services.ingest.oip import binary, compression, describe
from services.ingest.oip.inference import Answer, Call, Inference
from services.ingest.oip.repository import FILE, Repository
from services.ingest.oip.request import InferRequest, fault
from services.ingest.presence import while_present
from visionmesh.errors import VisionmeshError
from visionmesh.events import parse_deadline

T = TypeVar("T")

HEADER_LENGTH = "Inference-Header-Content-Length"
LARGE = 256 << 10
"""Bytes of JSON or of a compressed body from which on the event loop would be held up."""


class Rest:
    """The routes below ``/v2``."""

    def __init__(
        self, *, inference: Inference, repository: Repository, gateway: Gateway, max_bytes: int
    ) -> None:
        self._inference = inference
        self._repository = repository
        self._gateway = gateway
        self._max_bytes = max_bytes
        # One: what is large is read one at a time, as it takes several times its size of memory.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="oip")

    def build_app(self) -> Starlette:
        """Return the application."""
        model = "/v2/models/{model}"
        of_models = {
            "": self._metadata,
            "/ready": self._model_ready,
            "/config": self._config,
            "/stats": self._statistics,
        }
        routes = [
            Route("/v2", self._server),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
            Route("/v2/models/stats", self._statistics),
            Route("/v2/repository/index", self._index, methods=["POST"]),
            Route("/v2/repository/models/{model}/load", self._load, methods=["POST"]),
            Route("/v2/repository/models/{model}/unload", self._unload, methods=["POST"]),
        ]
        for prefix in (model, model + "/versions/{version}"):
            routes.append(Route(prefix + "/infer", self._infer, methods=["POST"]))
            routes += [Route(prefix + path, endpoint) for path, endpoint in of_models.items()]
        app = Starlette(
            routes=routes,
            exception_handlers=handlers(plain_refusal, hint="; GET /v2 names the extensions"),
        )
        app.router.redirect_slashes = False
        return app

    async def _server(self, _: Request) -> Response:
        return JSONResponse(describe.server())

    async def _live(self, _: Request) -> Response:
        return Response()

    async def _ready(self, _: Request) -> Response:
        return Response(status_code=200 if self._inference.ready() else 400)

    async def _model_ready(self, request: Request) -> Response:
        ready = await self._inference.model_ready(_call(request))
        return Response(status_code=200 if ready else 400)

    async def _metadata(self, request: Request) -> Response:
        return JSONResponse(await self._inference.metadata(_call(request)))

    async def _config(self, request: Request) -> Response:
        return JSONResponse(await self._inference.config(_call(request)))

    async def _statistics(self, request: Request) -> Response:
        return JSONResponse(await self._inference.statistics(_call(request)))

    async def _index(self, request: Request) -> Response:
        document = await self._document(request)
        only_ready = document.get("ready", False) is True
        caller = caller_of(request.scope)
        return JSONResponse(await self._repository.index(caller, only_ready=only_ready))

    async def _load(self, request: Request) -> Response:
        caller, model = caller_of(request.scope), request.path_params["model"]
        caller.require(Right.ADMIN, model)
        document = await self._document(request)
        parameters = _with_files(binary.object_in(document, "parameters"))
        # What has come whole is stored, whoever hangs up.
        loading = await self._repository.store(caller, model, parameters)
        await while_present(request.receive, loading)
        return Response()

    async def _unload(self, request: Request) -> Response:
        caller, model = caller_of(request.scope), request.path_params["model"]
        caller.require(Right.ADMIN, model)
        document = await self._document(request)
        parameters = binary.object_in(document, "parameters")
        unloading = self._repository.unload(caller, model, parameters)
        await while_present(request.receive, unloading)
        return Response()

    async def _document(self, request: Request) -> dict[str, Any]:
        body = await request.body()
        if not body:
            return {}
        # Files are long, but quickly parsed.
        read = partial(binary.read_object, body, max_bytes=self._max_bytes)
        return read() if len(body) < LARGE else await self._in_thread(read)

    async def _infer(self, request: Request) -> Response:
        try:
            call = _call(request)
            await self._inference.admit(call)
            asked = await self._request(request)
            answer = await while_present(request.receive, self._inference.infer(call, asked))
            return await self._response(request, answer)
        except VisionmeshError as error:
            self._gateway.refused(request.path_params["model"], error)
            raise

    async def _request(self, request: Request) -> InferRequest:
        encoding = compression.require_known(request.headers.get("content-encoding", ""))
        header_length = request.headers.get(HEADER_LENGTH)
        body = await request.body()
        if encoding:
            most = self._max_bytes
            body = await self._in_thread(
                lambda: compression.inflate(body, encoding, max_bytes=most)
            )
            load_of(request.scope).add(len(body))
        if binary.read_header_length(header_length, len(body)) < LARGE:
            return binary.parse(body, header_length)
        return await self._in_thread(lambda: binary.parse(body, header_length))

    async def _response(self, request: Request, answer: Answer) -> Response:
        encoding = compression.accepted(request.headers.get("accept-encoding", ""))

        def write() -> tuple[bytes, int | None]:
            body, length = binary.write(answer.head, answer.outputs, answer.wishes)
            return compression.deflate(body, encoding) if encoding else body, length

        values = sum(
            output.array.size
            for output, wish in zip(answer.outputs, answer.wishes, strict=True)
            if output.array is not None and (encoding or not wish.binary)
        )
        body, length = write() if values < LARGE else await self._in_thread(write)
        headers = {"Content-Type": "application/json"}
        if length is not None:
            headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(length)}
        if encoding:
            headers |= {"Content-Encoding": encoding}
        return Response(body, headers=headers)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _call(request: Request) -> Call:
    headers, path = request.headers, request.path_params
    return Call(
        model=path.get("model", ""),
        version=path.get("version", ""),
        source="http",
        caller=caller_of(request.scope),
        deadline_ns=parse_deadline(headers.get("vm-deadline")),
        traceparent=headers.get("traceparent"),
        tracestate=",".join(headers.getlist("tracestate")) or None,
    )


def _with_files(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters with the files among them as bytes, which are base64 in JSON."""
    return {
        name: _decoded(name, value) if name.startswith(FILE) else value
        for name, value in parameters.items()
    }


def _decoded(name: str, value: object) -> bytes:
    try:
        return base64.b64decode(value if isinstance(value, str) else "!", validate=True)
    except ValueError as error:
        raise fault(f"{name} must be the bytes of the file in base64.") from error
