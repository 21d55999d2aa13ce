"""Who calls by gRPC and then says nothing keeps nobody else out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2_grpc

from services.ingest.oip.inference import Call, Inference
from services.ingest.oip.open_calls import OPEN_PLACES
from tests.mesh.conftest import CLASSIFIER
from tests.mesh.slow import push_slow
from tests.mesh.test_front_oip_server import code_of, infer, request, serving
from tests.polling import until
from visionmesh.keys import Right
from visionmesh.local import LocalMesh

CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
LIVE = "/inference.GRPCInferenceService/ServerLive"
INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"

PLACES = 4
SOON = timedelta(milliseconds=300)
Metadata = list[tuple[str, str]]


def silent(channel: grpc.aio.Channel, method: str, metadata: Metadata | None = None) -> Any:
    """Return a call that has begun, and brings no request."""
    return channel.stream_stream(method)(metadata=metadata)


async def how_it_ends(call: Any) -> grpc.StatusCode:
    async with asyncio.timeout(10):
        return await code_of(call.read())


@contextmanager
def many_silent(
    channel: grpc.aio.Channel, method: str, count: int, metadata: Metadata | None = None
) -> Iterator[None]:
    calls = [silent(channel, method, metadata) for _ in range(count)]
    try:
        yield
    finally:
        for call in calls:
            call.cancel()


async def full(channel: grpc.aio.Channel, method: str, metadata: Metadata | None = None) -> None:
    """Return when one more call, with an empty request, is refused for want of a place."""

    async def refused() -> bool:
        try:
            await channel.stream_stream(method)([b""], metadata=metadata).read()
        except grpc.aio.AioRpcError as error:
            return bool(error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED)
        return False

    await until(refused)


@pytest.fixture
def unforeseen(monkeypatch: pytest.MonkeyPatch) -> str:
    """A model whose requests end in an error that is none of ours."""
    name, admit = "unforeseen", Inference.admit

    async def broken(self: Inference, call: Call) -> None:
        if call.model == name:
            raise RuntimeError("a secret")
        await admit(self, call)

    monkeypatch.setattr(Inference, "admit", broken)
    return name


async def test_silent_calls_keep_no_image_out(local_mesh: LocalMesh) -> None:
    async with (
        serving(local_mesh, keys="required", max_requests=PLACES) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        shown = [("x-api-key", await running.key(Right.INFER))]
        health = health_pb2_grpc.HealthStub(channel)
        watching = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(OPEN_PLACES)]
        for watched in watching:
            assert (await watched.read()).status == health_pb2.HealthCheckResponse.SERVING
        with ExitStack() as stack:
            stack.enter_context(many_silent(channel, CHECK, OPEN_PLACES))
            stack.enter_context(many_silent(channel, LIVE, OPEN_PLACES))
            stack.enter_context(many_silent(channel, STREAM, PLACES, shown))
            for method in (CHECK, WATCH, REFLECTION, LIVE):
                await full(channel, method)
            await full(channel, STREAM, shown)
            assert (await infer(channel, shown)).model_name == CLASSIFIER
        for watched in watching:
            watched.cancel()


@pytest.mark.parametrize("method", [INFER, STREAM])
async def test_a_key_is_asked_for_before_a_request(local_mesh: LocalMesh, method: str) -> None:
    async with (
        serving(local_mesh, keys="required") as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        code = await how_it_ends(silent(channel, method))
    assert code is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("method", [CHECK, WATCH, REFLECTION, LIVE, INFER, STREAM])
async def test_a_silent_call_is_ended(local_mesh: LocalMesh, method: str) -> None:
    async with (
        serving(local_mesh, body_timeout=SOON, stream_timeout=SOON) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        assert await how_it_ends(silent(channel, method)) is grpc.StatusCode.DEADLINE_EXCEEDED
        assert (await infer(channel)).model_name == CLASSIFIER


async def test_a_stream_that_falls_silent_has_its_answers_first(
    local_mesh: LocalMesh, tmp_path: Path
) -> None:
    await push_slow(local_mesh, tmp_path)
    async with (
        serving(local_mesh, stream_timeout=SOON) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        await running.loaded("slow")
        stream = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer()
        await stream.write(request(model="slow", count=32))
        assert (await stream.read()).infer_response.model_name == "slow"
        assert await how_it_ends(stream) is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_what_nobody_foresaw_is_for_the_log_alone(
    local_mesh: LocalMesh, unforeseen: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        serving(local_mesh) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        with caplog.at_level(logging.ERROR), pytest.raises(grpc.aio.AioRpcError) as failed:
            await infer(channel, model=unforeseen)
        assert failed.value.code() is grpc.StatusCode.INTERNAL
        told = failed.value.details() or ""
        assert told.endswith("[internal]")
        assert "a secret" not in told
        assert "a secret" in caplog.text
        assert (await infer(channel)).model_name == CLASSIFIER


async def test_what_nobody_foresaw_ends_no_stream(
    local_mesh: LocalMesh, unforeseen: str, caplog: pytest.LogCaptureFixture
) -> None:
    asked = [request(model=model) for model in (CLASSIFIER, unforeseen, CLASSIFIER)]
    asked[1].id = "second"
    async with (
        serving(local_mesh) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        stream = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(asked)
        with caplog.at_level(logging.ERROR):
            first, second, third = [answer async for answer in stream]
    assert first.infer_response.model_name == third.infer_response.model_name == CLASSIFIER
    assert second.infer_response.id == "second"
    assert second.error_message.endswith("[internal]")
    assert "a secret" not in second.error_message
    assert "a secret" in caplog.text
