"""How calls over gRPC come in, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any

import grpc

from services.ingest.forms import retry_after, status_of, unforeseen
from visionmesh.errors import Code, Refused, VisionmeshError

LONGEST_TEXT = 1000
"""Characters of an error: it travels among headers, of which clients take 8 KiB."""

_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""By HTTP status; what is missing is an input at fault."""
_LATER = frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE})


class Places:
    """Bounds how many calls of a kind are in hand at once.

    Each kind has places of its own, so that silent calls of one keep no other out.
    """

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._taken = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Take a place; raise `Refused` (mesh_full) if there is none."""
        if self._taken >= self._most:
            raise Refused(Code.MESH_FULL, "Too many such calls are in hand; try again.")
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1


async def read(context: grpc.aio.ServicerContext, *, within: timedelta) -> Any:
    """Return the next request of a call, `grpc.aio.EOF` after the last.

    Raises
    ------
    Refused
        (request_timeout) if none has arrived ``within`` that time.
    """
    seconds = within.total_seconds()
    try:
        async with asyncio.timeout(seconds):
            return await context.read()
    except TimeoutError as error:
        why = f"No request arrived within {seconds:g} s; end calls that need nothing more."
        raise Refused(Code.REQUEST_TIMEOUT, why) from error


@asynccontextmanager
async def telling(context: grpc.aio.ServicerContext, method: str) -> AsyncIterator[None]:
    """End a call with the status of the error that is raised in it."""
    try:
        yield
    except VisionmeshError as error:
        await _abort(context, error)
    except grpc.aio.BaseError:
        raise  # the call has ended already
    except Exception as error:
        await _abort(context, unforeseen(method, error))


def code_of(code: Code) -> grpc.StatusCode:
    """Return the gRPC status of an error."""
    if code is Code.MESH_FULL:
        return grpc.StatusCode.RESOURCE_EXHAUSTED
    return _CODES.get(status_of(code), grpc.StatusCode.INVALID_ARGUMENT)


def text_of(error: VisionmeshError) -> str:
    """Return what a client is told of an error."""
    return f"{error.message[:LONGEST_TEXT]} [{error.code}]"


async def _abort(context: grpc.aio.ServicerContext, error: VisionmeshError) -> None:
    code = code_of(error.code)
    trailing = (("retry-after", retry_after(error)),) if code in _LATER else ()
    await context.abort(code, text_of(error), trailing_metadata=trailing)
