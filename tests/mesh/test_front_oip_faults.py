"""Whatever a client of the Open Inference Protocol sends, it hears why, and the next one works."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from services.ingest.oip.compression import deflate
from tests.mesh.conftest import CLASSIFIER, picture
from visionmesh.client import Mesh
from visionmesh.local import LocalMesh

INFER = f"/v2/models/{CLASSIFIER}/infer"
LENGTH = "Inference-Header-Content-Length"
IMAGE = picture()


def tensor(**changes: Any) -> dict[str, Any]:
    own = {"name": "image", "datatype": "FP32", "shape": [1, 3, 32, 32], "data": [0.5] * 3072}
    return {"inputs": [own | changes]}


@pytest.fixture
async def works(http: httpx.AsyncClient, mesh: Mesh) -> AsyncIterator[None]:
    """Afterwards a good request is answered as ever."""
    usual = await mesh.infer(CLASSIFIER, IMAGE)
    yield
    answer = await http.post(INFER, content=IMAGE, headers={LENGTH: "0"})
    assert answer.status_code == 200
    body = answer.content[int(answer.headers[LENGTH]) + 4 :]
    assert json.loads(body)["classes"] == json.loads(usual.to_json())["classes"]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        pytest.param(b"", {}, 400, id="nothing"),
        pytest.param(b"", {LENGTH: "0"}, 400, id="no image"),
        pytest.param(b"{", {}, 400, id="no JSON"),
        pytest.param(b"[" * 10_000, {}, 400, id="deep JSON"),
        pytest.param(b'{"inputs":' * 10_000, {}, 400, id="deep objects"),
        pytest.param(b"{}", {LENGTH: "3"}, 400, id="a header longer than the body"),
        pytest.param(b"{}", {LENGTH: "two"}, 400, id="no length"),
        pytest.param(json.dumps(tensor(data=[])).encode(), {}, 400, id="no data"),
        pytest.param(json.dumps(tensor(datatype="FP16")).encode(), {}, 400, id="a datatype"),
        pytest.param(json.dumps(tensor(shape=[1, 3, 31, 32])).encode(), {}, 400, id="a shape"),
        pytest.param(b"what", {"Content-Encoding": "gzip"}, 400, id="no gzip"),
        pytest.param(gzip.compress(b"{}")[:-4], {"Content-Encoding": "gzip"}, 400, id="cut off"),
        pytest.param(b"{}", {"Content-Encoding": "br"}, 415, id="another encoding"),
        pytest.param(
            gzip.compress(bytes(100 << 20)), {"Content-Encoding": "gzip"}, 413, id="a gzip bomb"
        ),
        pytest.param(
            zlib.compress(bytes(100 << 20)), {"Content-Encoding": "deflate"}, 413, id="a zlib bomb"
        ),
        pytest.param(bytes(65 << 20), {LENGTH: "0"}, 413, id="65 MiB"),
        pytest.param(b" " * (17 << 20), {}, 413, id="17 MiB of JSON"),
        pytest.param(bytes(9 << 20), {LENGTH: "0"}, 413, id="an image of 9 MiB"),
        pytest.param(b"{}", {"Vm-Deadline": "soon"}, 400, id="no deadline"),
    ],
)
async def test_a_malformed_request_is_refused_in_the_form_of_the_protocol(
    body: bytes, headers: dict[str, str], status: int, http: httpx.AsyncClient, works: None
) -> None:
    answer = await http.post(INFER, content=body, headers=headers)
    assert answer.status_code == status, answer.text
    (error,) = answer.json().items()
    assert error[0] == "error"
    assert isinstance(error[1], str)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", INFER, 405),
        ("POST", "/v2", 405),
        ("GET", "/v2/systemsharedmemory/status", 404),
        ("GET", f"/v2/models/{CLASSIFIER}/what", 404),
        ("GET", "/v2/models/nothing", 404),
        ("GET", "/v2/models/no.name", 400),
        ("GET", f"/v2/models/{CLASSIFIER}/versions/9", 404),
        ("GET", f"/v2/models/{CLASSIFIER}/versions/one/config", 404),
        ("POST", "/v2/repository/models/nothing/load", 404),
        ("POST", "/v2/repository/models/nothing/unload", 404),
    ],
)
async def test_what_is_not_there_is_told(
    method: str, path: str, status: int, http: httpx.AsyncClient
) -> None:
    answer = await http.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}


@pytest.mark.parametrize(
    "parameters", [{"file:model.yaml": "no base64!"}, {"file:model.yaml": 7}, {"config": '{"a":1}'}]
)
async def test_a_model_is_not_stored_from_what_is_no_file(
    parameters: dict[str, Any], http: httpx.AsyncClient
) -> None:
    answer = await http.post("/v2/repository/models/new/load", json={"parameters": parameters})
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}


async def test_requests_at_once_do_not_meet(http: httpx.AsyncClient, mesh: Mesh) -> None:
    images = [picture() for _ in range(12)]
    usual = [json.loads((await mesh.infer(CLASSIFIER, image)).to_json()) for image in images]

    async def ask(number: int) -> httpx.Response:
        body: bytes = images[number]
        headers = {LENGTH: "0"}
        if number % 3 == 1:
            body = body[:50]
        if number % 3 == 2:
            body, headers = deflate(body, "gzip"), headers | {"Content-Encoding": "gzip"}
        return await http.post(INFER, content=body, headers=headers)

    answers = await asyncio.gather(*map(ask, range(len(images))))
    for number, answer in enumerate(answers):
        if number % 3 == 1:
            assert answer.status_code == 422
            continue
        document = json.loads(answer.content[int(answer.headers[LENGTH]) + 4 :])
        assert document["classes"] == usual[number]["classes"]


def status_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as failed:
        call()
    code: grpc.StatusCode = failed.value.code()
    return code


async def test_malformed_messages_are_refused(local_mesh: LocalMesh, works: None) -> None:
    def ask() -> None:
        unbounded = [("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(local_mesh.grpc_url, options=unbounded) as channel:
            raw = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            assert status_of(lambda: raw(b"\xff\xff\xff")) is grpc.StatusCode.INVALID_ARGUMENT
            assert status_of(lambda: raw(b"")) is grpc.StatusCode.INVALID_ARGUMENT
            assert status_of(lambda: raw(bytes(65 << 20))) is grpc.StatusCode.RESOURCE_EXHAUSTED
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            empty = service_pb2.ModelInferRequest(model_name=CLASSIFIER)
            assert status_of(lambda: stub.ModelInfer(empty)) is grpc.StatusCode.INVALID_ARGUMENT
            long = service_pb2.ModelInferRequest(model_name=CLASSIFIER)
            long.inputs.add(name="image", datatype="FP32", shape=[1])
            long.parameters["x" * 100_000].bool_param = True
            long.raw_input_contents.append(bytes(4))
            assert status_of(lambda: stub.ModelInfer(long)) is grpc.StatusCode.INVALID_ARGUMENT
            memory = service_pb2.SystemSharedMemoryStatusRequest()
            missing = status_of(lambda: stub.SystemSharedMemoryStatus(memory))
            assert missing is grpc.StatusCode.UNIMPLEMENTED

    await asyncio.to_thread(ask)
