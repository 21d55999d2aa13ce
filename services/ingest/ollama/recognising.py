"""Images by Ollama's calls: recognised, and described by embeddings."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from services.ingest.door import Right, caller_of
from services.ingest.gateway import Gateway
from services.ingest.models import Models
from services.ingest.ollama import answers
from services.ingest.ollama.embedding import unit, vector
from services.ingest.ollama.names import Name, find, parse_name
from services.ingest.ollama.progress import ndjson
from services.ingest.ollama.requests import (
    Asked,
    Chat,
    Embed,
    Embeddings,
    Generate,
    decode,
    read,
)
from services.ingest.presence import while_present
from visionmesh.contracts import Params, Result
from visionmesh.errors import Code, Reject, VisionmeshError
from visionmesh.events import Event, parse_deadline, parse_priority
from visionmesh.models.record import ModelRecord


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """The results of a request's images, in their order."""

    name: Name
    record: ModelRecord
    results: Sequence[Result]
    times: answers.Times


class Recognising:
    """Answers what is about images."""

    def __init__(self, *, gateway: Gateway, models: Models, max_image_bytes: int) -> None:
        self._gateway = gateway
        self._models = models
        self._max_image_bytes = max_image_bytes

    async def generate(self, request: Request) -> Response:
        asked = await read(request, Generate)
        if asked.suffix:
            raise Reject(Code.INVALID_REQUEST, f"{asked.model!r} does not support insert")
        idle = not asked.prompt
        return await self._answer(request, asked, asked.images or [], answers.generated, idle)

    async def chat(self, request: Request) -> Response:
        asked = await read(request, Chat)
        if asked.tools:
            raise Reject(Code.INVALID_REQUEST, f"{asked.model!r} does not support tools")
        idle = not asked.messages
        return await self._answer(request, asked, asked.images, answers.chatted, idle)

    async def embed(self, request: Request) -> Response:
        """Return the embedding of each image, with the length 1."""
        asked = await read(request, Embed)
        images = [asked.input] if isinstance(asked.input, str) else asked.input
        images = [image for image in images if image] if isinstance(asked.input, str) else images
        if not images:
            await self._load(request, asked)
            return JSONResponse({"model": asked.model, "embeddings": []})
        done = await self._recognise(request, asked.model, images, asked.params)
        return JSONResponse(
            {
                "model": asked.model,
                "embeddings": [unit(vector(one), asked.dimensions) for one in done.results],
                "total_duration": done.times.total,
                "load_duration": done.times.load,
                "prompt_eval_count": len(images),
            }
        )

    async def embeddings(self, request: Request) -> Response:
        """Return the embedding of one image as the model makes it: an older form of `embed`."""
        asked = await read(request, Embeddings)
        if not asked.prompt:
            await self._load(request, asked)
            return JSONResponse({"embedding": []})
        done = await self._recognise(request, asked.model, [asked.prompt], asked.params)
        return JSONResponse({"embedding": vector(done.results[0])})

    async def _answer(
        self, request: Request, asked: Asked, images: list[str], said: answers.Said, idle: bool
    ) -> Response:
        """Answer with what is in the images; without any, load the model or unload it."""
        if asked.think:
            raise Reject(Code.INVALID_REQUEST, f"{asked.model!r} does not support thinking")
        if not images:
            caller = caller_of(request.scope)
            right = Right.ADMIN if idle and asked.unloads else Right.INFER
            name, _ = await find(self._models, asked.model, caller=caller, right=right)
            if not idle:
                why = f"{asked.model!r} recognises images and answers no text: send an image"
                raise Reject(Code.INVALID_REQUEST, why)
            if asked.unloads:
                await while_present(request.receive, self._models.unload(name.model))
                return JSONResponse(answers.loaded(asked.model, said, "unload"))
            await self._load(request, asked)
            return JSONResponse(answers.loaded(asked.model, said, "load"))
        done = await self._recognise(request, asked.model, images, asked.params)
        text = answers.text_of(asked, done.record, done.results)
        spoken = (asked.model, said, text, done.results, done.times)
        if asked.stream:
            return ndjson(answers.lines(*spoken))
        return JSONResponse(answers.whole(*spoken))

    async def _recognise(
        self, request: Request, model: str, images: list[str], params: Params
    ) -> Recognised:
        began = time.monotonic_ns()
        caller = caller_of(request.scope)
        name = parse_name(model)
        try:
            record = await self._awake(request, model)
            loaded = time.monotonic_ns()
            await self._gateway.require(name.model, name.version)
            decoded = await decode(images, max_bytes=self._max_image_bytes)
            await caller.spend(len(decoded))
            events = [_event(request, name.model, image, params) for image in decoded]
            inferring = self._gateway.infer_all(events, version=name.version)
            replies = await while_present(request.receive, inferring)
        except VisionmeshError as error:
            self._gateway.refused(name.model, error)
            raise
        results = [reply.result() for reply in replies]
        for number, result in enumerate(results):
            if result.error is not None:
                where = f"image {number}: " if len(results) > 1 else ""
                raise Reject(result.error.code, where + result.error.message)
        times = answers.Times(total=time.monotonic_ns() - began, load=loaded - began)
        return Recognised(name=name, record=record, results=results, times=times)

    async def _load(self, request: Request, asked: Asked) -> None:
        record = await self._awake(request, asked.model)
        await while_present(request.receive, self._models.wait_until_loaded(record))

    async def _awake(self, request: Request, model: str) -> ModelRecord:
        """Return a model when it is loaded, if it was made a moment ago.

        One that was unloaded by request is loaded first if the caller may do so.
        """
        caller = caller_of(request.scope)
        name, record = await find(self._models, model, caller=caller, right=Right.INFER)
        is_parked = record.parked
        if is_parked:
            caller.require(Right.ADMIN, name.model)
            record = await self._models.unpark(name.model)
        if is_parked or self._models.is_coming(record):
            await while_present(request.receive, self._models.wait_until_loaded(record))
        return record


def _event(request: Request, model: str, image: bytes, params: Params) -> Event:
    headers = request.headers
    return Event(
        id=uuid.uuid4().hex,
        source="ollama",
        model=model,
        image=image,
        params=params,
        priority=parse_priority(headers.get("vm-priority")),
        deadline_ns=parse_deadline(headers.get("vm-deadline")),
        traceparent=headers.get("traceparent"),
        tracestate=",".join(headers.getlist("tracestate")) or None,
    )
