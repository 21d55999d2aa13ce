"""`visionmesh devices` tells every GPU once, and why there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.visionmesh.cli.conftest import Run, finish
from tests.workers import make_loaded, make_record
from visionmesh.cli import devices
from visionmesh.cli.app import build
from visionmesh.cli.devices import Device, known_devices, rows
from visionmesh.gpu.listing import GpuListing, GpuProcess, GpuSlice
from visionmesh.gpu.nvml import NoNvml
from visionmesh.nodes import NodeRecord

WHOLE = GpuListing(
    index=0,
    uuid="GPU-0",
    name="NVIDIA H200",
    memory_total=140_000_000_000,
    memory_used=12_300_000_000,
    utilization=0.5,
    temperature=43,
)
CUT = GpuListing(
    index=1,
    uuid="GPU-1",
    name="NVIDIA H200",
    slices=(GpuSlice(uuid="MIG-7", profile="1g.18gb", memory_total=18 << 30, memory_used=0),),
)
BROKEN = WHOLE.model_copy(
    update={"uuid": "GPU-9", "unfit": "the driver reported Xid 79", "warnings": ("slowed down",)}
)


def worker(node: str, *, gpus: tuple[GpuListing, ...], **memory: int) -> NodeRecord:
    """Return a worker that has loaded a version for each model in ``memory``, on its first GPU."""
    place = (gpus[0].slices or gpus)[0].uuid
    ran = {"version": 3, "engine": "tensorrt", "precision": "fp16"}
    loaded = tuple(
        make_loaded(model, "cuda", device_memory={place: nbytes}, **ran)
        for model, nbytes in memory.items()
    )
    return make_record(node, gpus=gpus, loaded=loaded)


def test_a_gpu_that_several_workers_tell_is_listed_once_and_with_all_their_models() -> None:
    workers = [worker("far", gpus=(WHOLE,), cats=10**9), worker("far", gpus=(WHOLE,), dogs=1)]
    [device] = known_devices("here", (), workers)
    assert (device.node, device.gpu) == ("far", WHOLE)
    assert [one.model for one in device.running("GPU-0")] == ["cats", "dogs"]
    assert rows([device]) == [
        (
            *("far", "0", "NVIDIA H200", "GPU-0", "12.3 GB of 140 GB", "50%", "43", "healthy"),
            "cats/3 tensorrt fp16 1 GB, dogs/3 tensorrt fp16 1 B",
        )
    ]


def test_the_gpus_of_this_machine_are_as_they_are_now() -> None:
    told = worker("here", gpus=(WHOLE.model_copy(update={"temperature": 20.0}),), cats=5)
    [device] = known_devices("here", (WHOLE,), [told])
    assert device.gpu.temperature == 43
    assert [one.pid for one in device.running("GPU-0")] == [77]


def test_what_runs_on_another_nodes_gpu_is_not_taken_for_this_ones() -> None:
    here, far = known_devices("here", (WHOLE,), [worker("there", gpus=(WHOLE,), cats=5)])
    assert (here.node, here.running("GPU-0")) == ("here", [])
    assert (far.node, len(far.running("GPU-0"))) == ("there", 1)


def test_a_slice_has_a_row_of_its_own_with_what_runs_there() -> None:
    [device] = known_devices("here", (CUT,), [worker("here", gpus=(CUT,), cats=5_000_000)])
    whole, part = rows([device])
    assert whole[3:] == ("GPU-1", "-", "-", "-", "healthy", "")
    assert part[2:5] == ("MIG 1g.18gb", "MIG-7", "0 B of 19.3 GB")
    assert part[-1] == "cats/3 tensorrt fp16 5 MB"
    told = json.loads(json.dumps(device.document()))
    assert told["slices"][0]["models"][0]["memory_bytes"] == 5_000_000


def test_processes_that_are_no_workers_are_counted() -> None:
    busy = WHOLE.model_copy(update={"processes": (GpuProcess(pid=1), GpuProcess(pid=2))})
    [row] = rows([Device(node="here", gpu=busy, workers=())])
    assert row[-1] == "2 processes"


@pytest.fixture
def no_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody(*_: object) -> list[NodeRecord]:
        return []

    monkeypatch.setattr(devices, "_workers", nobody)


@pytest.mark.usefixtures("no_mesh")
def test_what_is_wrong_with_a_gpu_is_told_below_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "local_gpus", lambda: ((BROKEN,), ""))
    told = CliRunner().invoke(build(), ["devices"], env={"VISIONMESH_NODE": "box"})
    assert told.exit_code == 0
    assert "UNFIT" in told.output
    assert "GPU 0 on box: the driver reported Xid 79.\nGPU 0 on box: slowed down.\n" in told.output


@pytest.mark.usefixtures("no_mesh")
def test_without_a_driver_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Any:
        raise NoNvml("no NVIDIA driver answers: pip install 'visionmesh[gpu]'")

    monkeypatch.setattr("visionmesh.gpu.nvml.read_once", absent)
    told = CliRunner().invoke(build(), ["devices"], env={"VISIONMESH_NODE": "box"})
    assert told.exit_code == 0
    assert (
        told.stdout == "No GPU on box: no NVIDIA driver answers: pip install 'visionmesh[gpu]'.\n"
    )


@pytest.mark.usefixtures("no_mesh")
def test_a_driver_without_gpus_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visionmesh.gpu.nvml.read_once", lambda: ())
    told = CliRunner().invoke(build(), ["devices", "--json"], env={"VISIONMESH_NODE": "box"})
    assert (told.exit_code, told.stdout) == (0, "")
    assert told.stderr == "No GPU on box: the driver knows none.\n"


async def test_it_lists_with_a_mesh_and_without_one(visionmesh: Run, tmp_path: Path) -> None:
    with_mesh = await visionmesh("devices", "--json")
    alone = await finish(tmp_path, "devices", "--json")
    assert with_mesh.status == alone.status == 0
    assert [one["uuid"] for one in with_mesh.documents] == [one["uuid"] for one in alone.documents]


async def test_a_mesh_that_is_named_must_answer(tmp_path: Path) -> None:
    told = await finish(tmp_path, "devices", "--nats", "nats://127.0.0.1:9")
    assert told.status == 1
    assert "[mesh_unreachable]" in told.err
