"""Work that takes a while: a line of JSON whenever there is something to tell."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from typing import Any

from pydantic_core import to_json
from starlette.responses import JSONResponse, Response, StreamingResponse

from services.ingest.forms import unforeseen
from visionmesh.errors import VisionmeshError

NDJSON = "application/x-ndjson"
SUCCESS = {"status": "success"}

Work = Callable[[], Coroutine[Any, Any, object]]
Steps = tuple[tuple[str, Work], ...]
"""What is told before each piece of work."""


async def respond(steps: Steps, *, stream: bool) -> Response:
    """Do the steps one after the other; an error of the first line on is a line of its own."""
    if stream:
        return StreamingResponse(_stream(steps), media_type=NDJSON)
    for _, work in steps:
        await work()
    return JSONResponse(SUCCESS)


async def _stream(steps: Steps) -> AsyncIterator[bytes]:
    try:
        for status, work in steps:
            yield line({"status": status})
            await work()
    except VisionmeshError as error:
        yield line({"error": str(error)})
    except Exception as error:
        # The answer has begun: only a line can still tell.
        yield line({"error": str(unforeseen("a step of making a model", error))})
    else:
        yield line(SUCCESS)


def ndjson(objects: Iterable[object]) -> Response:
    """Return the response that streams objects which are there already."""

    async def body() -> AsyncIterator[bytes]:
        for one in objects:
            yield line(one)

    return StreamingResponse(body(), media_type=NDJSON)


def line(value: object) -> bytes:
    return to_json(value) + b"\n"
