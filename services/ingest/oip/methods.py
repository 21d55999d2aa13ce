"""The protocol over gRPC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError

from services.ingest.addresses import is_loopback
from services.ingest.door import Caller, Door
from services.ingest.forms import unforeseen
from services.ingest.gateway import Gateway
from services.ingest.limits import Load, Total
from services.ingest.oip import describe
from services.ingest.oip.calls import Places, read, telling, text_of
from services.ingest.oip.inference import Call, Inference
from services.ingest.oip.messages import Messages, parameters, read_request
from services.ingest.oip.open_calls import OPEN_PLACES
from services.ingest.oip.repository import Repository
from services.ingest.oip.request import fault
from visionmesh.errors import Code, Refused, Reject, VisionmeshError
from visionmesh.settings import IngestSettings
from visionmesh.tasks import end

Handle = Callable[[Any, grpc.aio.ServicerContext, Caller], Awaitable[Any]]
"""Takes the request, its call, and who calls."""

AHEAD = 16
"""Requests of one stream that are worked on at once; their answers keep the order."""

_STREAM = "ModelStreamInfer"
_OPEN = frozenset({"ServerLive", "ServerReady"})
"""Need no key."""


class Methods:
    """The methods of the service."""

    def __init__(
        self,
        *,
        inference: Inference,
        repository: Repository,
        gateway: Gateway,
        door: Door,
        messages: Messages,
        settings: IngestSettings,
    ) -> None:
        self._inference = inference
        self._repository = repository
        self._gateway = gateway
        self._door = door
        self._messages = messages
        self._settings = settings
        self._total = Total(most=settings.max_bytes_in_hand)
        self._places = Places(most=settings.max_requests)
        self._streams = Places(most=settings.max_requests)
        self._open_places = Places(most=OPEN_PLACES)

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return what a server is given."""
        handles: dict[str, Handle] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "ModelInfer": self._model_infer,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }
        # To a server that waits for a stream, and on the wire a single request is one, a call
        # begins before its message is there: the key comes first, and who sends nothing is told.
        handlers = {
            name: grpc.stream_unary_rpc_method_handler(
                self._answering(name, handle), **self._coding(name)
            )
            for name, handle in handles.items()
        }
        handlers[_STREAM] = grpc.stream_stream_rpc_method_handler(
            self._streaming, **self._coding(_STREAM)
        )
        return grpc.method_handlers_generic_handler(self._messages.service.full_name, handlers)

    def _answering(
        self, name: str, handle: Handle
    ) -> Callable[[Any, grpc.aio.ServicerContext], Awaitable[Any]]:
        is_open = name in _OPEN
        places = self._open_places if is_open else self._places

        async def answer(_: Any, context: grpc.aio.ServicerContext) -> Any:
            async with telling(context, name):
                caller = Caller() if is_open else self._caller(context)
                with places.one():
                    request = await read(context, within=self._settings.body_timeout)
                    if request is grpc.aio.EOF:
                        raise fault("The call brought no message.")
                    if isinstance(request, Reject):
                        raise request
                    return await handle(request, context, caller)

        return answer

    async def _streaming(self, _: Any, context: grpc.aio.ServicerContext) -> None:
        async with telling(context, _STREAM):
            caller = self._caller(context)
            with self._streams.one():
                await self._answer_all(context, caller)

    def _coding(self, name: str) -> dict[str, Any]:
        method = self._messages.service.methods_by_name[name]
        response = self._messages.type_of(method.output_type.name)
        return {
            "request_deserializer": _reading(self._messages.type_of(method.input_type.name)),
            "response_serializer": response.SerializeToString,
        }

    async def _server_live(self, *_: Any) -> Any:
        return self._messages.of_document("ServerLiveResponse", {"live": True})

    async def _server_ready(self, *_: Any) -> Any:
        ready = self._inference.ready()
        return self._messages.of_document("ServerReadyResponse", {"ready": ready})

    async def _server_metadata(self, *_: Any) -> Any:
        return self._messages.of_document("ServerMetadataResponse", describe.server())

    async def _model_ready(self, request: Any, _: object, caller: Caller) -> Any:
        try:
            ready = await self._inference.model_ready(_call(request, caller))
        except Refused as error:  # the protocol knows no error here
            if error.code not in (Code.UNKNOWN_MODEL, Code.UNKNOWN_VERSION):
                raise
            ready = False
        return self._messages.of_document("ModelReadyResponse", {"ready": ready})

    async def _model_metadata(self, request: Any, _: object, caller: Caller) -> Any:
        document = await self._inference.metadata(_call(request, caller))
        return self._messages.of_document("ModelMetadataResponse", document)

    async def _model_config(self, request: Any, _: object, caller: Caller) -> Any:
        document = await self._inference.config(_call(request, caller))
        return self._messages.of_document("ModelConfigResponse", {"config": document})

    async def _model_statistics(self, request: Any, _: object, caller: Caller) -> Any:
        document = await self._inference.statistics(_call(request, caller))
        return self._messages.of_document("ModelStatisticsResponse", document)

    async def _index(self, request: Any, _: object, caller: Caller) -> Any:
        models = await self._repository.index(caller, only_ready=request.ready)
        return self._messages.of_document("RepositoryIndexResponse", {"models": models})

    async def _load(self, request: Any, _: object, caller: Caller) -> Any:
        await self._repository.load(caller, request.model_name, parameters(request.parameters))
        return self._messages.of_document("RepositoryModelLoadResponse", {})

    async def _unload(self, request: Any, _: object, caller: Caller) -> Any:
        await self._repository.unload(caller, request.model_name, parameters(request.parameters))
        return self._messages.of_document("RepositoryModelUnloadResponse", {})

    async def _model_infer(
        self, request: Any, context: grpc.aio.ServicerContext, caller: Caller
    ) -> Any:
        load = Load(total=self._total, most=self._settings.max_request_bytes)
        try:
            call = _infer_call(request, context, caller)
            await self._inference.admit(call)
            asked = read_request(request)
            load.add(asked.nbytes)
            answer = await self._inference.infer(call, asked)
        except VisionmeshError as error:
            self._gateway.refused(request.model_name, error)
            raise
        finally:
            load.drop()
        return self._messages.of_answer(answer)

    async def _answer_all(self, context: grpc.aio.ServicerContext, caller: Caller) -> None:
        """Answer each request in turn; what is wrong with one does not end the stream."""
        order: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue()
        places = asyncio.Semaphore(AHEAD)
        tasks: set[asyncio.Task[Any]] = set()
        patience = self._settings.stream_timeout

        async def read_all() -> None:
            try:
                while (request := await read(context, within=patience)) is not grpc.aio.EOF:
                    await places.acquire()
                    task = asyncio.create_task(self._streamed(request, context, caller))
                    tasks.add(task)
                    order.put_nowait(task)
            finally:
                order.put_nowait(None)

        reading = asyncio.create_task(read_all())
        try:
            while (task := await order.get()) is not None:
                await context.write(await task)
                tasks.discard(task)
                places.release()
            await reading
        finally:
            await end((reading, *tasks))

    async def _streamed(
        self, request: Any, context: grpc.aio.ServicerContext, caller: Caller
    ) -> Any:
        response = self._messages.type_of("ModelStreamInferResponse")
        told = self._messages.type_of("ModelInferResponse")
        if isinstance(request, Reject):
            return response(error_message=text_of(request))
        error: VisionmeshError
        try:
            return response(infer_response=await self._model_infer(request, context, caller))
        except VisionmeshError as refused:
            error = refused
        except Exception as unknown:
            error = unforeseen(_STREAM, unknown)
        return response(error_message=text_of(error), infer_response=told(id=request.id))

    def _caller(self, context: grpc.aio.ServicerContext) -> Caller:
        metadata = _metadata(context)
        credentials = metadata.get("authorization") or metadata.get("x-api-key")
        return self._door.caller(credentials, peer_is_local(context.peer()))


def peer_is_local(peer: str) -> bool:
    """Say whether a peer, such as ``ipv4:127.0.0.1:5000``, is on this host."""
    kind, _, rest = peer.partition(":")
    if kind == "unix":
        return True
    return is_loopback(unquote(rest.rpartition(":")[0]).strip("[]"))


def _reading(message: Any) -> Callable[[bytes], Any]:
    """Return what reads a message, or tells why it cannot be read as the status of the call."""

    def parse(raw: bytes) -> Any:
        try:
            return message.FromString(raw)
        except DecodeError:
            return fault("The message is none of this method.")

    return parse


def _call(request: Any, caller: Caller) -> Call:
    return Call(model=request.name, version=request.version, source="grpc", caller=caller)


def _infer_call(request: Any, context: grpc.aio.ServicerContext, caller: Caller) -> Call:
    metadata = _metadata(context)
    return Call(
        model=request.model_name,
        version=request.model_version,
        source="grpc",
        caller=caller,
        deadline_ns=_deadline_ns(context),
        traceparent=metadata.get("traceparent"),
        tracestate=metadata.get("tracestate"),
    )


def _metadata(context: grpc.aio.ServicerContext) -> Mapping[str, str]:
    return {
        key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)
    }


def _deadline_ns(context: grpc.aio.ServicerContext) -> int | None:
    left = context.time_remaining()
    return None if left is None else time.time_ns() + int(left * 1e9)
