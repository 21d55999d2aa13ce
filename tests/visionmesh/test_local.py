"""A mesh that cannot come up says why, and leaves nothing running."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.mesh.conftest import write_classifier
from visionmesh.client import Mesh
from visionmesh.errors import Code, ConfigurationError
from visionmesh.local import LocalMesh
from visionmesh.settings import IngestSettings, Settings
from visionmesh.settings.ingest import MqttSettings
from visionmesh.state import StateFolder


@pytest.fixture
def no_new_children() -> Iterator[None]:
    """Fail the test if it leaves a process behind."""
    before = set(psutil.Process().children(recursive=True))
    yield
    left = set(psutil.Process().children(recursive=True)) - before
    assert not left


@pytest.mark.usefixtures("no_new_children")
async def test_a_broken_model_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.yaml").write_text("task: juggling")
    mesh = LocalMesh(state=tmp_path / "state", models=[tmp_path / "broken"])
    with pytest.raises(ConfigurationError, match=r"broken/model\.yaml"):
        await mesh.__aenter__()
    assert StateFolder(tmp_path / "state").read() is None


@pytest.mark.usefixtures("no_new_children")
async def test_a_service_that_cannot_start_is_named_with_its_own_words(tmp_path: Path) -> None:
    settings = Settings(shm_dir=tmp_path / "missing", ingest=IngestSettings(port=0, grpc_port=0))
    mesh = LocalMesh(state=tmp_path / "state", settings=settings)
    with pytest.raises(ConfigurationError, match=r"does not become ready(?s:.)*missing"):
        await mesh.__aenter__()
    assert StateFolder(tmp_path / "state").read() is None


@pytest.mark.usefixtures("no_new_children")
async def test_a_taken_http_port_is_named(tmp_path: Path) -> None:
    async with LocalMesh(
        state=tmp_path / "first",
    ) as first:
        taken = IngestSettings(port=first.settings.ingest.port, grpc_port=0)
        second = LocalMesh(state=tmp_path / "second", settings=Settings(ingest=taken))
        with pytest.raises(ConfigurationError, match=f"{taken.port}.*in use"):
            await second.__aenter__()


def test_the_urls_of_a_mesh_by_ipv6_can_be_read(tmp_path: Path) -> None:
    ingest = IngestSettings(port=1, grpc_port=2, mqtt=MqttSettings(host="::1", port=3))
    mesh = LocalMesh(state=tmp_path, settings=Settings(host="::1", ingest=ingest))
    assert mesh.http_url == "http://[::1]:1"
    assert mesh.grpc_url == "[::1]:2"
    assert mesh.mqtt_url == "mqtt://[::1]:3"


@pytest.mark.usefixtures("no_new_children")
async def test_cameras_come_from_elsewhere_only_where_that_is_told(tmp_path: Path) -> None:
    mqtt = MqttSettings(port=0)
    everywhere = Settings(host="0.0.0.0", ingest=IngestSettings(port=0, grpc_port=0, mqtt=mqtt))
    async with LocalMesh(state=tmp_path, settings=everywhere) as mesh:
        port = mesh.settings.ingest.mqtt.port
        assert mesh.mqtt_url == f"mqtt://127.0.0.1:{port}"
        server = psutil.Process(mesh.pids["nats"][0])
        listening = [here.laddr for here in server.net_connections() if here.status == "LISTEN"]
        assert [ip for ip, number in listening if number == port] == ["127.0.0.1"]


@pytest.mark.usefixtures("no_new_children")
async def test_a_model_that_no_worker_can_load_is_named_at_once(tmp_path: Path) -> None:
    model = write_classifier(tmp_path, instances=[{"device": "abacus"}])
    mesh = LocalMesh(state=tmp_path / "state", models=[model])
    with pytest.raises(ConfigurationError, match=r"Version 1 of classifier(?s:.)*abacus") as caught:
        await mesh.__aenter__()
    assert caught.value.code is Code.MODEL_FAILED


@pytest.mark.usefixtures("no_new_children")
async def test_a_model_for_other_nodes_does_not_keep_a_mesh_from_coming_up(tmp_path: Path) -> None:
    far = write_classifier(tmp_path, name="far", instances=[{"device": "cuda:GPU-elsewhere"}])
    near = write_classifier(tmp_path, name="near")
    async with (
        LocalMesh(state=tmp_path / "state", models=[far, near]) as running,
        Mesh(running.nats_url) as mesh,
    ):
        [infer] = [node for node in await mesh.nodes() if node.stage == "infer"]
        assert infer.models.keys() == {"near"}
        assert infer.failed == {}
