"""Models by Ollama's calls: told, made, copied and removed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from services.ingest.blobs import Blobs
from services.ingest.door import Right, caller_of
from services.ingest.models import Models, visible
from services.ingest.ollama import describe
from services.ingest.ollama.names import Name, find, new_name
from services.ingest.ollama.progress import Steps, Work, respond
from services.ingest.ollama.requests import Body, Copy, Create, params_of, read
from visionmesh.contracts import Params
from visionmesh.errors import Code, Refused, Reject
from visionmesh.models.folder import WEIGHTS_FILE
from visionmesh.models.record import ModelRecord

_PUSH = "models are stored in the mesh by `visionmesh push` or /api/create"


class Library:
    """Answers what is not about images."""

    def __init__(self, *, models: Models, blobs: Blobs) -> None:
        self._models = models
        self._blobs = blobs

    async def tags(self, request: Request) -> Response:
        return JSONResponse(describe.tags(await self._visible(request)))

    async def running(self, request: Request) -> Response:
        records = await self._visible(request)
        return JSONResponse(describe.running(records, await self._models.in_memory()))

    async def show(self, request: Request) -> Response:
        asked = await read(request, Body)
        name, record = await self._find(request, Right.READ, asked.model)
        return JSONResponse(describe.show(record, name))

    async def create(self, request: Request) -> Response:
        """Make a model of another one with settings of its own, or of uploaded files."""
        asked = await read(request, Create)
        name = new_name(asked.model)
        caller_of(request.scope).require(Right.ADMIN, name)
        if asked.adapters or asked.quantize:
            what = "adapters are not taken" if asked.adapters else "use `visionmesh optimize`"
            raise Reject(Code.INVALID_REQUEST, f"{what}: push what it makes as a new version")
        params = params_of(asked.parameters or {})
        if asked.from_ and asked.files:
            raise Reject(Code.INVALID_REQUEST, "only one of 'from' and 'files' can be specified")
        if asked.files:
            steps = self._from_files(name, asked.files, params)
        elif asked.from_:
            source, _ = await self._find(request, Right.ADMIN, asked.from_)
            copying = self._copying(source.model, name, source.version, params)
            steps = (("creating new model", copying),)
        else:
            raise Reject(Code.INVALID_REQUEST, "neither 'from' or 'files' was specified")
        return await respond(steps, stream=asked.stream)

    async def copy(self, request: Request) -> Response:
        asked = await read(request, Copy)
        name = new_name(asked.destination)
        caller_of(request.scope).require(Right.ADMIN, name)
        source, _ = await self._find(request, Right.ADMIN, asked.source)
        await self._models.copy(source.model, name, version=source.version)
        return Response()

    async def delete(self, request: Request) -> Response:
        asked = await read(request, Body)
        name, _ = await self._find(request, Right.ADMIN, asked.model)
        await self._models.delete(name.model, version=name.version)
        return Response()

    async def pull(self, request: Request) -> Response:
        """Say that a model is there, or that it has to be pushed: nothing is fetched."""
        asked = await read(request, Body)
        try:
            await self._find(request, Right.READ, asked.model)
        except Refused as error:
            if error.code is Code.UNKNOWN_MODEL:
                raise Refused(error.code, f"{error.message}: {_PUSH}") from error
            raise
        return await respond((("pulling manifest", _nothing),), stream=asked.stream)

    async def push(self, request: Request) -> Response:
        raise Reject(Code.INVALID_REQUEST, f"nothing is pushed to elsewhere: {_PUSH}")

    async def has_blob(self, request: Request) -> Response:
        caller_of(request.scope).require(Right.ADMIN)
        found = self._blobs.find(request.path_params["digest"])
        return Response(status_code=200 if found else 404)

    async def store_blob(self, request: Request) -> Response:
        caller_of(request.scope).require(Right.ADMIN)
        digest = request.path_params["digest"]
        if self._blobs.find(digest):
            await self._blobs.skip(request.stream())
            return Response(status_code=200)
        length = request.headers.get("content-length")
        nbytes = None if length is None else int(length)
        await self._blobs.store(digest, request.stream(), nbytes=nbytes)
        return Response(status_code=201)

    async def _visible(self, request: Request) -> list[ModelRecord]:
        return visible(caller_of(request.scope), await self._models.list())

    async def _find(self, request: Request, right: Right, name: str) -> tuple[Name, ModelRecord]:
        return await find(self._models, name, caller=caller_of(request.scope), right=right)

    def _from_files(self, name: str, files: dict[str, str], params: Params) -> Steps:
        paths: dict[str, Path | bytes] = {}
        for path, digest in files.items():
            blob = self._blobs.find(digest)
            if blob is None:
                why = f"blob {digest!r} not found: upload it to /api/blobs/{digest} first"
                raise Reject(Code.INVALID_REQUEST, why)
            paths[f"1/{path}" if path == WEIGHTS_FILE else path] = blob
        made = ("checking and storing the model", partial(self._models.create, name, paths))
        if params == Params():
            return (made,)
        return (made, ("setting parameters", self._copying(name, name, None, params)))

    def _copying(self, source: str, name: str, version: int | None, params: Params) -> Work:
        return partial(self._models.copy, source, name, version=version, params=params)


async def _nothing() -> None:
    pass
