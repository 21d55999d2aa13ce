"""Stock clients of the Open Inference Protocol get what the mesh's own client gets."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import onnxruntime
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from numpy.typing import NDArray
from onnx import TensorProto

from tests.mesh.conftest import CLASSIFIER, SIZE, picture, write_classifier
from tests.networks import save_network
from visionmesh.bus import Connection
from visionmesh.client import Mesh
from visionmesh.contracts import Result
from visionmesh.local import LocalMesh
from visionmesh.models.registry import Registry

Json = dict[str, Any]

LABELS = ["ant", "bee", "cat", "dog"]
CLIENTS = Path(__file__).parents[1] / "clients"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the clients send."""
    folder = tmp_path_factory.mktemp("oip")
    random = np.random.default_rng(4)
    (folder / "image").write_bytes(picture())
    np.save(folder / "pixels.npy", random.integers(0, 255, (3, 40, 30, 3), np.uint8))
    np.save(folder / "own.npy", random.random((2, 3, SIZE, SIZE), np.float32))
    return folder


async def drive(script: str, wire: str, mesh: LocalMesh, folder: Path, *more: Path) -> Json:
    """Run a client in a process of its own and return what it was answered."""
    address = mesh.http_url.removeprefix("http://") if wire == "http" else mesh.grpc_url
    assert address is not None
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(CLIENTS / script),
        wire,
        address,
        CLASSIFIER,
        str(folder),
        *map(str, more),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    told, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    document: Json = json.loads(told)
    return document


def classes(result: Result) -> list[Json]:
    assert result.classes is not None
    return [one.model_dump() for one in result.classes]


def by_runtime(network: Path, batch: NDArray[Any]) -> NDArray[Any]:
    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    outputs = [session.run(None, {session.get_inputs()[0].name: one[None]})[0] for one in batch]
    return np.concatenate(outputs)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders of models that take other numbers than the usual ones, and inputs beside them."""
    root = tmp_path_factory.mktemp("networks")
    return [_half(root), _whole(root)]


def _half(root: Path) -> Path:
    own = {"width": SIZE, "height": SIZE, "resize": "stretch", "dtype": "float16"}
    folder = write_classifier(root, name="half", input=own)
    shape = ("n", 3, SIZE, SIZE)
    save_network(folder / "1" / "model.onnx", shape=shape, dtype=TensorProto.FLOAT16)
    random = np.random.default_rng(5)
    np.save(root / "half.npy", random.random((2, 3, SIZE, SIZE)).astype(np.float16))
    return folder


def _whole(root: Path) -> Path:
    own = {"width": SIZE, "height": SIZE, "resize": "stretch", "dtype": "uint8"}
    folder = write_classifier(root, name="whole", input=own)
    shape = ("n", 3, SIZE, SIZE)
    save_network(folder / "1" / "model.onnx", shape=shape, dtype=TensorProto.UINT8)
    random = np.random.default_rng(6)
    np.save(root / "whole.npy", random.integers(0, 255, (2, 3, SIZE, SIZE), np.uint8))
    return folder


@pytest.fixture(scope="module", params=["http", "grpc"])
async def told(
    request: pytest.FixtureRequest, local_mesh: LocalMesh, folder: Path, networks: list[Path]
) -> AsyncIterator[Json]:
    """What the blocking client of either wire was answered."""
    wire: str = request.param
    yield {"wire": wire} | await drive("triton_blocking.py", wire, local_mesh, folder, *networks)
    connection = await Connection.open(local_mesh.nats_url, name="test")
    for network in networks:
        await Registry(connection.client).remove(network.name)
    await connection.close()


@pytest.fixture(scope="module")
def raw(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> NDArray[Any]:
    """What ONNX Runtime answers to ``own.npy``."""
    file = tmp_path_factory.mktemp("network") / "n.onnx"
    network = save_network(file, shape=("n", 3, SIZE, SIZE))
    return by_runtime(network, np.load(folder / "own.npy"))


async def test_results_are_those_of_the_mesh(told: Json, mesh: Mesh, folder: Path) -> None:
    usual = classes(await mesh.infer(CLASSIFIER, (folder / "image").read_bytes()))
    inferred = told["inferred"]
    assert inferred["id"] == inferred["encoded"][0]["id"] == "seven"
    assert inferred["encoded"][0]["classes"] == usual
    assert inferred["top_1"][0]["classes"] == usual[:1]
    assert [one["image"]["width"] for one in inferred["pixels"]] == [30, 30, 30]
    assert [one["status"] for one in inferred["both"]] == ["ok", "ok"]


async def test_outputs_are_those_of_the_runtime(told: Json, raw: NDArray[Any]) -> None:
    inferred = told["inferred"]
    np.testing.assert_allclose(inferred["outputs"], raw, rtol=1e-6)
    assert inferred["version"] == inferred["outputs"]
    order = np.argsort(-raw, axis=1)[:, :2]
    assert inferred["best"] == [
        [f"{row[place]:f}:{place}:{LABELS[place]}" for place in places]
        for row, places in zip(raw, order, strict=True)
    ]


async def test_every_way_of_travelling_gives_the_same(told: Json) -> None:
    ways = {"json"} if told["wire"] == "http" else {"None", "gzip", "deflate"}
    assert ways <= told["carried"].keys()
    assert told["carried"] == dict.fromkeys(told["carried"], told["inferred"]["outputs"])
    assert told["large"] == 5


async def test_models_are_stored_unloaded_and_loaded(told: Json, networks: list[Path]) -> None:
    for network, reloaded in zip(networks, told["reloaded"], strict=True):
        outputs, refused = reloaded["outputs"], reloaded["refused"]
        expected = by_runtime(network / "1" / "model.onnx", np.load(network.with_suffix(".npy")))
        np.testing.assert_allclose(outputs, expected, rtol=1e-5)
        assert refused.endswith("[model_not_ready]")
        ready = [reloaded[state] for state in ("stored", "unloaded", "loaded")]
        assert ready == [True, False, True]


async def test_ultralytics_finds_what_it_reads(told: Json) -> None:
    assert told["as_ultralytics"] == {
        "shapes": [[1, 4]],
        "task": "classify",
        "names": LABELS,
        "numbers": [32, 1, 3],
        "imgsz": [SIZE, SIZE],
    }


async def test_server_and_model_are_described(told: Json) -> None:
    described = told["described"]
    states = [described[name] for name in ("live", "ready", "model_ready", "version_ready")]
    assert states == [True] * 4
    assert [described[name] for name in ("nobody_ready", "no_version_ready")] == [False] * 2
    assert described["server"]["name"] == "visionmesh"
    metadata = described["metadata"]
    inputs = [(one["name"], one["datatype"]) for one in metadata["inputs"]]
    assert inputs == [("image", "BYTES"), ("pixels", "UINT8"), ("image", "FP32")]
    assert [one["name"] for one in metadata["outputs"]] == ["scores", "results"]
    index = described["index"] if told["wire"] == "http" else described["index"]["models"]
    assert {"name": CLASSIFIER, "version": "1", "state": "READY"} in index


async def test_what_was_answered_is_counted(told: Json) -> None:
    (counted,) = told["described"]["statistics"]["model_stats"]
    parts = counted["inference_stats"]
    assert int(parts["success"]["count"]) == int(counted["execution_count"]) >= 5
    assert int(counted["inference_count"]) > int(counted["execution_count"])
    assert int(parts["compute_infer"]["ns"]) > 0


REFUSALS = {
    "unknown_model": ("404", "NOT_FOUND", "unknown_model"),
    "unknown_version": ("404", "NOT_FOUND", "unknown_version"),
    "unknown_input": ("400", "INVALID_ARGUMENT", "invalid_request"),
    "unknown_output": ("400", "INVALID_ARGUMENT", "invalid_request"),
    "wrong_shape": ("400", "INVALID_ARGUMENT", "invalid_request"),
    "wrong_datatype": ("400", "INVALID_ARGUMENT", "invalid_request"),
    "no_image": ("422", "INVALID_ARGUMENT", "not_an_image"),
    "too_late": ("504", "DEADLINE_EXCEEDED", "deadline_passed"),
    "sequence": ("400", "INVALID_ARGUMENT", "invalid_request"),
    "parameter": ("400", "INVALID_ARGUMENT", "invalid_params"),
}


async def test_a_refusal_tells_why(told: Json) -> None:
    refused = told["refused"]
    assert refused.keys() == REFUSALS.keys()
    for name, (status, grpc_status, code) in REFUSALS.items():
        wanted = status if told["wire"] == "http" else f"StatusCode.{grpc_status}"
        assert refused[name].startswith(f"{wanted} "), refused[name]
        assert refused[name].endswith(f" [{code}]"), refused[name]


@pytest.mark.parametrize("wire", ["http", "grpc"])
async def test_an_asyncio_client_works(
    wire: str, local_mesh: LocalMesh, mesh: Mesh, folder: Path, raw: NDArray[Any]
) -> None:
    told = await drive("triton_asyncio.py", wire, local_mesh, folder)
    usual = classes(await mesh.infer(CLASSIFIER, (folder / "image").read_bytes()))
    assert told["live"]
    assert told["ready"]
    assert [one["classes"] for one in told["encoded"]] == [usual] * 8
    np.testing.assert_allclose(told["outputs"], raw, rtol=1e-6)
    assert told["refused"].endswith("[unknown_model]")
    if wire == "grpc":
        first, second, third = told["streamed"]
        assert (first["id"], third["id"]) == ("0", "2")
        assert first["classes"] == third["classes"] == usual
        assert second.endswith("[unknown_model]")


async def test_an_image_is_a_body_without_a_header(http: httpx.AsyncClient, mesh: Mesh) -> None:
    image = picture()
    answer = await http.post(
        f"/v2/models/{CLASSIFIER}/infer",
        content=image,
        headers={"Inference-Header-Content-Length": "0"},
    )
    assert answer.status_code == 200, answer.text
    length = int(answer.headers["Inference-Header-Content-Length"])
    head = json.loads(answer.content[:length])
    assert head["outputs"][0]["shape"] == [1]
    result = Result.model_validate_json(answer.content[length + 4 :])
    assert classes(result) == classes(await mesh.infer(CLASSIFIER, image))


async def test_a_stranger_finds_the_service_by_reflection_and_its_health(
    local_mesh: LocalMesh,
) -> None:
    def ask() -> tuple[list[str], str, int]:
        with grpc.insecure_channel(local_mesh.grpc_url) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            file = database.FindFileContainingSymbol("inference.GRPCInferenceService")
            asked = health_pb2.HealthCheckRequest(service="inference.GRPCInferenceService")
            answer = health_pb2_grpc.HealthStub(channel).Check(asked)
            return list(database.get_services()), file.name, answer.status

    services, file, status = await asyncio.to_thread(ask)
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= set(services)
    assert file == "open_inference.proto"
    assert status == health_pb2.HealthCheckResponse.SERVING
