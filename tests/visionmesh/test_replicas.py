"""Each process of a service sees the GPU that is meant for it, and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.mesh.conftest import write_classifier
from visionmesh.errors import Code, ConfigurationError
from visionmesh.local import LocalMesh
from visionmesh.replicas import replicas_of, sole_replica, visible
from visionmesh.settings import (
    InferSettings,
    IngestSettings,
    PostprocessSettings,
    PreprocessSettings,
    Settings,
)

SLICES = ("cuda:MIG-3f1c", "cuda:MIG-77aa")
VISIBLE = "CUDA_VISIBLE_DEVICES"


def shown(settings: Settings, service: str, **environment: str) -> list[str | None]:
    """Return what each process of a service sees; `None`: whatever the supervisor does."""
    found = replicas_of(settings, service, environment=environment)
    return [one.environment.get(VISIBLE) for one in found]


@pytest.mark.parametrize("service", ["ingest", "preprocess", "infer", "postprocess"])
def test_by_default_a_service_is_one_process_that_sees_everything(service: str) -> None:
    [replica] = replicas_of(Settings(), service, environment={VISIBLE: "3"})
    assert (replica.name, replica.environment) == (service, {})
    assert getattr(replica.settings, service) == getattr(Settings(), service)


def test_each_slice_of_a_gpu_has_a_process_for_each_replica() -> None:
    settings = Settings(infer=InferSettings(devices=SLICES, replicas=2, port=9300))
    found = replicas_of(settings, "infer", environment={})
    assert [one.name for one in found] == ["infer-1", "infer-2", "infer-3", "infer-4"]
    assert [one.environment[VISIBLE] for one in found] == [
        *("MIG-3f1c", "MIG-3f1c", "MIG-77aa", "MIG-77aa")
    ]
    assert [one.settings.infer.port for one in found] == [9300, 0, 0, 0]


@pytest.mark.parametrize(
    ("section", "seen", "device"),
    [
        ({"device": "cuda:GPU-1"}, ["GPU-1"], "cuda"),
        ({"devices": ("cuda:0",), "device": "cpu"}, ["0"], "cuda"),
        ({"device": "cuda"}, [None], "cuda"),
        ({"device": "cpu"}, [None], "cpu"),
        ({"devices": ("cpu",)}, [""], "cpu"),
        ({"device": "emulated"}, [None], "emulated"),
    ],
)
def test_within_its_process_a_device_is_cuda(
    section: dict[str, Any], seen: list[str | None], device: str
) -> None:
    settings = Settings(
        preprocess=PreprocessSettings(**section), postprocess=PostprocessSettings(**section)
    )
    for service in ("preprocess", "postprocess"):
        assert shown(settings, service) == seen
        [replica] = replicas_of(settings, service, environment={})
        assert getattr(replica.settings, service).device == device


def test_numbers_count_what_the_supervisor_sees() -> None:
    settings = Settings(infer=InferSettings(devices=("cuda:0", "cuda:1")))
    assert shown(settings, "infer", **{VISIBLE: "GPU-a,5"}) == ["GPU-a", "5"]
    with pytest.raises(ConfigurationError, match="cuda:1 is not visible here") as caught:
        shown(settings, "infer", **{VISIBLE: "2"})
    assert caught.value.code is Code.DEVICE_MISSING
    assert visible("cuda:1", {}) == {VISIBLE: "1"}


def test_who_starts_one_process_names_one_device() -> None:
    one = Settings(infer=InferSettings(devices=SLICES[:1], replicas=4))
    assert sole_replica(one, "infer", environment={}).environment == {VISIBLE: "MIG-3f1c"}
    two = Settings(infer=InferSettings(devices=SLICES))
    with pytest.raises(ConfigurationError, match=r"infer\.devices: one process"):
        sole_replica(two, "infer", environment={})


async def test_the_processes_of_a_mesh_see_their_own_devices(tmp_path: Path) -> None:
    settings = Settings(
        ingest=IngestSettings(port=0, grpc_port=0), infer=InferSettings(devices=SLICES)
    )
    model = write_classifier(tmp_path)
    async with LocalMesh(state=tmp_path / "state", settings=settings, models=[model]) as mesh:
        seen = [psutil.Process(pid).environ().get(VISIBLE) for pid in mesh.pids["infer"]]
        assert seen == ["MIG-3f1c", "MIG-77aa"]
        [ingest] = mesh.pids["ingest"]
        assert VISIBLE not in psutil.Process(ingest).environ()
