"""The gRPC server: who may come in, on which port, and how it ends."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from services.ingest.door import Caller, Door
from services.ingest.gateway import AT_ONCE, Gateway
from services.ingest.models import Models
from services.ingest.oip.methods import AHEAD
from services.ingest.oip.server import OpenInference
from services.ingest.oip.tensors import Tensor
from tests.mesh.conftest import CLASSIFIER, picture
from tests.mesh.gateways import open_gateway
from tests.mesh.slow import push_slow
from tests.polling import until
from visionmesh.embedded import free_port
from visionmesh.errors import Code, ConfigurationError
from visionmesh.keys import Right
from visionmesh.keys.quota import Quota
from visionmesh.keys.record import issue
from visionmesh.keys.ring import KeyRing
from visionmesh.keys.store import KeyStore
from visionmesh.local import LocalMesh
from visionmesh.settings.ingest import TlsSettings


@dataclass(frozen=True, kw_only=True)
class Running:
    """A server, and what is around it."""

    address: str
    server: OpenInference
    gateway: Gateway
    ring: KeyRing
    store: KeyStore

    async def loaded(self, model: str) -> None:
        async def serving() -> bool:
            return self.gateway._context.nodes.serving(model)

        await until(serving)

    async def asking_for(self, images: int) -> None:
        """Return when it waits for so many images."""

        async def waiting() -> bool:
            return len(self.gateway._callers) == images

        await until(waiting)

    async def key(self, *rights: Right, rate: str | None = None) -> str:
        """Return a new key that the door has heard of."""
        key, record = issue(name="test", rights=rights, rate=rate)
        await self.store.add(record)

        async def known() -> bool:
            return self.ring.find(key) is not None

        await until(known)
        return key

    async def revoke(self, key: str) -> None:
        """Make a key invalid, and return when the door has heard of it."""
        record = self.ring.find(key)
        assert record is not None
        await self.store.revoke(record.id)

        async def known() -> bool:
            return self.ring.now(record).revoked is not None

        await until(known)


@asynccontextmanager
async def serving(
    mesh: LocalMesh, *, keys: Literal["off", "required"] = "off", **changes: Any
) -> AsyncIterator[Running]:
    """A server of a test's own beside that of the mesh."""
    port = changes.setdefault("grpc_port", free_port("127.0.0.1"))
    ingest = mesh.settings.ingest.model_copy(update=changes)
    settings = mesh.settings.model_copy(update={"ingest": ingest})
    async with open_gateway(settings) as gateway:
        context = gateway._context
        store = KeyStore(context.connection.client)
        ring = KeyRing(store, fail=context.fail)
        door = Door(keys=ring, quota=Quota(url=None), host=settings.host, policy=keys)
        await door.start()
        server = OpenInference(
            context=context, gateway=gateway, door=door, models=Models(context=context)
        )
        try:
            await server.start()
            yield Running(
                address=f"127.0.0.1:{port}",
                server=server,
                gateway=gateway,
                ring=ring,
                store=store,
            )
        finally:
            await server.stop()
            await door.stop()


def request(*, model: str, count: int = 1) -> Any:
    """Return a request for so many images."""
    message = service_pb2.ModelInferRequest(model_name=model)
    message.inputs.add(name="image", datatype="BYTES", shape=[count])
    images = [picture() for _ in range(count)]
    message.raw_input_contents.append(Tensor.of_texts("image", (count,), images).to_binary())
    return message


async def infer(
    channel: grpc.aio.Channel,
    metadata: Sequence[tuple[str, str]] = (),
    *,
    model: str = CLASSIFIER,
    count: int = 1,
) -> Any:
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    return await stub.ModelInfer(request(model=model, count=count), metadata=metadata)


async def code_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    code: grpc.StatusCode = failed.value.code()
    return code


async def test_who_needs_a_key_is_asked_for_it(local_mesh: LocalMesh) -> None:
    async with serving(local_mesh, keys="required") as running:
        key = await running.key(Right.INFER)
        async with grpc.aio.insecure_channel(running.address) as channel:
            assert await code_of(infer(channel)) is grpc.StatusCode.UNAUTHENTICATED
            wrong = [("authorization", "Bearer vmk_1")]
            assert await code_of(infer(channel, wrong)) is grpc.StatusCode.UNAUTHENTICATED
            right = [("authorization", f"Bearer {key}")]
            assert (await infer(channel, right)).outputs[0].name == "results"
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            assert (await stub.ServerLive(service_pb2.ServerLiveRequest())).live
            asked = service_pb2.ModelConfigRequest(name=CLASSIFIER)
            assert (await stub.ModelConfig(asked, metadata=right)).config.name == CLASSIFIER
            unload = service_pb2.RepositoryModelUnloadRequest(model_name=CLASSIFIER)
            refused = await code_of(stub.RepositoryModelUnload(unload, metadata=right))
            assert refused is grpc.StatusCode.PERMISSION_DENIED


async def test_a_key_is_looked_up_once_and_is_good_until_it_is_revoked(
    local_mesh: LocalMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str | None] = []
    caller = Door.caller

    def counted(self: Door, credentials: str | None, peer_is_local: bool) -> Caller:
        looked_up.append(credentials)
        return caller(self, credentials, peer_is_local)

    monkeypatch.setattr(Door, "caller", counted)
    async with (
        serving(local_mesh, keys="required") as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        key = await running.key(Right.INFER)
        shown = [("x-api-key", key)]
        await infer(channel, shown)
        assert looked_up == [key]
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        stream = stub.ModelStreamInfer(metadata=shown)
        for _ in range(2):
            await stream.write(request(model=CLASSIFIER))
            assert (await stream.read()).infer_response.model_name == CLASSIFIER
        assert looked_up == [key, key]
        await running.revoke(key)
        await stream.write(request(model=CLASSIFIER))
        assert (await stream.read()).error_message.endswith("[unauthorized]")
        stream.cancel()


async def test_who_asks_too_often_is_told_when_to_come_again(local_mesh: LocalMesh) -> None:
    async with serving(local_mesh, keys="required") as running:
        shown = [("x-api-key", await running.key(Right.INFER, rate="2/h"))]
        async with grpc.aio.insecure_channel(running.address) as channel:
            await infer(channel, shown, count=2)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await infer(channel, shown)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    wait = dict(refused.value.trailing_metadata() or ())["retry-after"]
    assert 0 < int(wait) <= 2 * 3600


async def test_a_taken_port_is_told(local_mesh: LocalMesh) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"{port}") as refused:
            async with serving(local_mesh, grpc_port=port):
                pass
    assert refused.value.code is Code.SETTINGS_INVALID


async def test_files_of_tls_that_are_not_there_are_told(
    local_mesh: LocalMesh, tmp_path: Path
) -> None:
    tls = TlsSettings(certificate=tmp_path / "none.pem", key=tmp_path / "none.pem")
    with pytest.raises(ConfigurationError, match="TLS"):
        async with serving(local_mesh, tls=tls):
            pass


@pytest.fixture
def tls(tmp_path: Path) -> TlsSettings:
    files = TlsSettings(certificate=tmp_path / "cert.pem", key=tmp_path / "key.pem")
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1"
    about = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    into = ["-out", str(files.certificate), "-keyout", str(files.key)]
    subprocess.run([*make.split(), *about, *into], check=True, capture_output=True)
    return files


async def test_tls_is_spoken(local_mesh: LocalMesh, tls: TlsSettings) -> None:
    async with serving(local_mesh, tls=tls) as running:
        trusted = grpc.ssl_channel_credentials(tls.certificate.read_bytes())
        async with grpc.aio.secure_channel(running.address, trusted) as channel:
            assert (await infer(channel)).model_name == CLASSIFIER


@pytest.fixture
async def slow(local_mesh: LocalMesh, tmp_path: Path) -> str:
    """A model that takes its time."""
    await push_slow(local_mesh, tmp_path)
    return "slow"


async def test_what_a_client_that_goes_away_asked_for_is_left_undone(
    local_mesh: LocalMesh, slow: str
) -> None:
    async with serving(local_mesh) as running:
        await running.loaded(slow)
        async with grpc.aio.insecure_channel(running.address) as channel:
            asking = asyncio.create_task(infer(channel, model=slow, count=64))
            await running.asking_for(AT_ONCE)
            asking.cancel()
            # Of 64 images hardly one was done.
            await running.asking_for(0)
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            stream = stub.ModelStreamInfer(request(model=slow) for _ in range(100))
            assert (await stream.read()).infer_response.model_name == slow
            await running.asking_for(AHEAD)
            stream.cancel()
            await running.asking_for(0)
    assert asking.cancelled()


async def test_a_server_that_ends_answers_what_it_has(local_mesh: LocalMesh, slow: str) -> None:
    async with (
        serving(local_mesh) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        await running.loaded(slow)
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watched.read()).status == health_pb2.HealthCheckResponse.SERVING
        asking = asyncio.create_task(infer(channel, model=slow, count=4))
        await running.asking_for(4)
        ending = asyncio.create_task(running.server.stop())
        assert (await watched.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watched.cancel()
        assert (await asking).model_name == slow
        await ending
        assert await code_of(infer(channel)) is grpc.StatusCode.UNAVAILABLE
