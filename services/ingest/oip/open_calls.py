"""Health checks and reflection, which need no key."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import grpc

from services.ingest.oip.calls import Places, read, telling
from services.ingest.oip.request import fault

OPEN_PLACES = 64
"""Calls of a kind that need no key, at once; who watches health stays for hours."""


class OpenCalls(grpc.aio.ServerInterceptor):  # type: ignore[misc] # grpc has no types
    """Bounds the calls of all services but one, and how long they may stay silent.

    Parameters
    ----------
    but
        The service that sees to its own calls.
    patience
        How long a call may bring no request.
    """

    def __init__(self, *, but: str, patience: timedelta) -> None:
        self._but = f"/{but}/"
        self._patience = patience
        self._checks = Places(most=OPEN_PLACES)
        self._streams = Places(most=OPEN_PLACES)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        if handler is None or method.startswith(self._but):
            return handler
        # On the wire a single message is a stream of one. A server that is told so starts the
        # call before its message is there, and so can give it up.
        return grpc.stream_stream_rpc_method_handler(
            self._bounded(method, handler),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _bounded(self, method: str, handler: Any) -> Callable[..., Awaitable[None]]:
        behaviour = handler.unary_unary or handler.unary_stream or handler.stream_stream
        places = self._streams if handler.response_streaming else self._checks

        async def call(_: Any, context: grpc.aio.ServicerContext) -> None:
            async with telling(context, method):
                with places.one():
                    requests = self._requests(context)
                    request = requests if handler.request_streaming else await _only(requests)
                    answers = behaviour(request, context)
                    if inspect.isasyncgen(answers):
                        async for answer in answers:
                            await context.write(answer)
                    elif (answer := await answers) is not None:
                        await context.write(answer)

        return call

    async def _requests(self, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        while (request := await read(context, within=self._patience)) is not grpc.aio.EOF:
            yield request


async def _only(requests: AsyncIterator[Any]) -> Any:
    async for request in requests:
        return request
    raise fault("The call brought no message.")
