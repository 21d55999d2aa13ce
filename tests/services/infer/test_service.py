"""An infer worker follows the models of the mesh, or ends."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import httpx
import pytest

from services.infer.loading import Loaded, Loader, Terms
from services.infer.service import Infer
from tests.driver import LOST, Driver
from tests.mesh.conftest import write_classifier
from visionmesh.context import Context, open_context
from visionmesh.errors import Fatal, Retry
from visionmesh.gpu import Gpu
from visionmesh.gpu.watch import GpuWatch
from visionmesh.models.folder import load_folder
from visionmesh.models.record import VersionRecord
from visionmesh.models.spec import ModelSpec
from visionmesh.nodes import NodeRecord, list_nodes
from visionmesh.service import serve
from visionmesh.settings import MEBIBYTE, InferSettings, PostprocessSettings, Settings
from visionmesh.stage import Stage
from visionmesh.subjects import TENSORS
from visionmesh.tensors import DeviceArena

NAME = "cannot-be-followed"


async def test_a_worker_that_cannot_follow_a_model_is_unfit(
    nats_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def listen_lanes(*_: object, name: str) -> None:
        if NAME in name:
            raise Retry("The NATS server did not answer in time.")

    monkeypatch.setattr(Stage, "listen_lanes", listen_lanes)
    settings = Settings(
        nats_url=nats_url, state_dir=tmp_path, infer=InferSettings(arena_bytes=MEBIBYTE)
    )
    async with open_context(settings, stage="infer", stream=TENSORS) as context:
        worker = Infer(context)
        await worker.start()
        await context.catalog.registry.push(load_folder(write_classifier(tmp_path, name=NAME)))
        with pytest.raises(Fatal, match="did not answer in time"):
            await context.failed
        await worker.stop()
        await context.catalog.registry.remove(NAME)


async def told_by(context: Context, condition: Callable[[NodeRecord], bool]) -> NodeRecord:
    """Return what the one worker tells of itself once ``condition`` holds."""
    async with asyncio.timeout(20):
        while True:
            found = await list_nodes(context.connection.client)
            if found and condition(found[0]):
                return found[0]
            await asyncio.sleep(0.02)


async def test_a_model_for_other_nodes_is_no_failure_and_its_images_are_not_taken(
    nats_url: str, tmp_path: Path
) -> None:
    name = "for-other-nodes"
    folder = write_classifier(tmp_path, name=name, instances=[{"device": "cuda:GPU-elsewhere"}])
    settings = Settings(
        nats_url=nats_url, state_dir=tmp_path, infer=InferSettings(arena_bytes=MEBIBYTE)
    )
    async with open_context(settings, stage="infer", stream=TENSORS) as context:
        registry = context.catalog.registry
        record = await registry.push(load_folder(folder))
        worker = Infer(context)
        await context.nodes.start(load=lambda: 0)
        await worker.start()
        told = await told_by(context, lambda one: name in (one.applied or {}))
        assert (told.applied or {})[name] == record.revision
        assert name not in told.models
        assert not any(version.startswith(name) for version in told.failed)
        consumers = await context.connection.client.jetstream().consumers_info(TENSORS)
        assert not any(name in str(consumer.name) for consumer in consumers)

        here = load_folder(write_classifier(tmp_path, name=name))
        await registry.push(here, replace=True)
        await told_by(context, lambda one: name in one.models)
        await worker.stop()
        await registry.remove(name)


async def test_memory_for_outputs_is_taken_before_weights_take_it(
    nats_url: str, tmp_path: Path, gpu: Gpu, gpu_device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "leaves-room"
    arenas: list[DeviceArena | None] = []
    load = Loader.load

    async def note(self: Loader, spec: ModelSpec, stored: VersionRecord, terms: Terms) -> Loaded:
        if spec.name == name:
            arenas.append(context.devices.arena(gpu))
        return await load(self, spec, stored, terms)

    monkeypatch.setattr(Loader, "load", note)
    settings = Settings(
        nats_url=nats_url,
        state_dir=tmp_path,
        infer=InferSettings(arena_bytes=MEBIBYTE, device_arena_bytes=MEBIBYTE),
        postprocess=PostprocessSettings(device=gpu_device),
    )
    async with open_context(settings, stage="infer", stream=TENSORS) as context:
        registry = context.catalog.registry
        folder = write_classifier(tmp_path, name=name, instances=[{"device": gpu_device}])
        await registry.push(load_folder(folder))
        worker = Infer(context)
        await context.nodes.start(load=lambda: 0)
        await worker.start()
        await worker.stop()
        await registry.remove(name)
    assert arenas
    assert None not in arenas


async def test_a_worker_on_an_unfit_gpu_is_not_ready_until_it_is_well_again(
    nats_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver()
    driver.answers["nvmlDeviceGetUUID"] = lambda handle: f"EMULATED-{handle.removeprefix('gpu')}"
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    quickly = partial(GpuWatch, period=timedelta(milliseconds=50))
    monkeypatch.setattr("services.infer.service.GpuWatch", quickly)
    settings = Settings(
        nats_url=nats_url, state_dir=tmp_path, infer=InferSettings(arena_bytes=MEBIBYTE)
    )
    async with open_context(settings, stage="ingest", stream=TENSORS) as context:
        folder = write_classifier(tmp_path, name=NAME, instances=[{"device": "emulated"}])
        await context.catalog.registry.push(load_folder(folder))
        serving = asyncio.create_task(
            serve(settings, stage="infer", stream=TENSORS, build=Infer), name="infer"
        )
        well = await told_by(context, lambda one: one.ready)
        assert [gpu.uuid for gpu in well.gpus] == ["EMULATED-0", "EMULATED-1"]
        async with httpx.AsyncClient(base_url=str(well.http)) as client:
            assert (await client.get("/readyz")).status_code == 200

            driver.lost["gpu1"] = LOST
            ill = await told_by(context, lambda one: any(gpu.unfit for gpu in one.gpus))
            assert ill.ready, "it does not use that one"
            driver.lost = {"gpu0": LOST}
            ill = await told_by(context, lambda one: not one.ready)
            answer = await client.get("/readyz")
            assert answer.status_code == 503
            assert "GPU 0 (EMULATED-0): the driver has lost it: GPU is lost" in answer.text
            metrics = (await client.get("/metrics")).text
            assert 'visionmesh_gpu_healthy{gpu="EMULATED-0",name="NVIDIA H200"} 0.0' in metrics

            driver.lost = {}
            await told_by(context, lambda one: one.ready)
            assert (await client.get("/readyz")).status_code == 200
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        await context.catalog.registry.remove(NAME)
