"""When pixels stay in a GPU's memory, and what happens where they cannot."""

from __future__ import annotations

import asyncio
import mmap
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from tests.polling import until
from tests.workers import running
from visionmesh.context import Context, Near, open_context
from visionmesh.contracts import CudaLocation, InlineLocation, Reference, ShmLocation
from visionmesh.errors import Miss
from visionmesh.gpu import Gpu, GpuError, SharedMemory
from visionmesh.gpu.copier import Copier
from visionmesh.gpu.gpu import GpuMemoryError
from visionmesh.nodes import NodeRecord, Nodes, list_nodes
from visionmesh.settings import Settings
from visionmesh.tasks import AGAIN, end
from visionmesh.tensors import DeviceArena
from visionmesh.tensors.slab import create_slab

NODE = "gpu-node"
MEBIBYTE = 1 << 20


@pytest.fixture
def settings(nats_url: str, tmp_path: Path, gpu_device: str) -> Settings:
    own = {"device": gpu_device, "device_arena_bytes": MEBIBYTE}
    return Settings(
        nats_url=nats_url,
        node=NODE,
        state_dir=tmp_path,
        shm_dir=tmp_path,
        preprocess=own,
        postprocess=own,
    )


@pytest.fixture
async def context(settings: Settings) -> AsyncIterator[Context]:
    """A preprocess worker's."""
    async with open_context(settings, stage="preprocess", stream="IMAGES") as context:
        await context.nodes.start(load=lambda: 0.0)
        yield context


@pytest.fixture
async def infer(context: Context) -> AsyncIterator[Nodes]:
    """What an infer worker on the node tells of itself."""
    nodes = Nodes(nc=context.connection.client, node=NODE, stage="infer")
    await nodes.start(load=lambda: 0.0)
    await nodes.update(models={"cats": (1,)}, ready=True)
    yield nodes
    await nodes.stop()


@pytest.fixture
async def near(context: Context, infer: Nodes, gpu: Gpu) -> Near:
    """Where all who may take an image of the model read from the GPU."""
    await infer.update(**running("cats", gpu.info.uuid))
    near = Near(gpu=gpu, stage="infer", model="cats")
    await until(lambda: stays(context, near))
    return near


class Gate:
    """Holds up the next copies, in whatever thread they are."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.may_go_on = threading.Event()

    def copy(self, pairs: object) -> None:
        self.began.set()
        assert self.may_go_on.wait(timeout=10)


@pytest.fixture
def copying(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    monkeypatch.setattr(Copier, "copy", gate.copy)
    yield gate
    gate.may_go_on.set()


async def stays(context: Context, near: Near) -> bool:
    return context.stays(NODE, near)


async def told(context: Context) -> NodeRecord:
    records = await list_nodes(context.connection.client)
    (own,) = (one for one in records if one.stage == context.stage and one.node == NODE)
    return own


async def test_what_all_takers_read_on_the_gpu_is_put_there(context: Context, near: Near) -> None:
    with await context.room(NODE, 1000, near) as slot:
        assert slot.device is not None
        assert isinstance(slot.commit(), CudaLocation)
    assert context.room_now(NODE, 1000, near) is not None


async def test_it_is_put_elsewhere_for_other_nodes_and_where_it_would_not_fit(
    context: Context, near: Near
) -> None:
    with await context.room("any", 1000, near) as slot:
        assert isinstance(slot.commit(), InlineLocation)
    with await context.room(NODE, 2 * MEBIBYTE, near) as slot:
        assert isinstance(slot.commit(), ShmLocation)
    with await context.room(NODE, 1000) as slot:
        assert isinstance(slot.commit(), ShmLocation)


async def test_it_is_put_elsewhere_as_soon_as_one_does_not_read_there(
    context: Context, near: Near, infer: Nodes
) -> None:
    await infer.update(devices=())

    async def gone() -> bool:
        return not context.stays(NODE, near)

    await until(gone)
    with await context.room(NODE, 1000, near) as slot:
        assert isinstance(slot.commit(), ShmLocation)


async def test_a_gpu_that_cannot_share_its_memory_is_told_of_once(
    settings: Settings, near: Near, caplog: pytest.LogCaptureFixture
) -> None:
    too_much = {"device_arena_bytes": 2 * near.gpu.info.memory_bytes}
    own = settings.preprocess.model_copy(update=too_much)
    settings = settings.model_copy(update={"preprocess": own})
    async with open_context(settings, stage="preprocess", stream="IMAGES") as context:
        await context.nodes.start(load=lambda: 0.0)

        async def heard() -> bool:
            return context.nodes.all_read(near.gpu.info.uuid, stage=near.stage, model=near.model)

        await until(heard)
        for _ in range(3):
            with await context.room(NODE, 1000, near) as slot:
                assert isinstance(slot.commit(), ShmLocation)
    (said,) = (line for line in caplog.messages if "cannot be shared" in line)
    assert near.gpu.info.uuid in said


async def test_a_gpu_that_had_no_memory_left_is_asked_again_and_told_of_once(
    settings: Settings, gpu: Gpu, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = [GpuMemoryError("there is none left"), GpuMemoryError("there is none yet")]
    share = type(gpu).share

    def scarce(self: Gpu, nbytes: int) -> SharedMemory:
        if answers:
            raise answers.pop()
        return share(self, nbytes)

    monkeypatch.setattr(type(gpu), "share", scarce)
    monkeypatch.setattr("visionmesh.device_memory.AGAIN", timedelta(milliseconds=20))
    async with open_context(settings, stage="preprocess", stream="IMAGES") as context:

        async def opened() -> DeviceArena | None:
            return context.devices.arena(gpu)

        await until(opened)
    assert not answers
    assert sum("cannot be shared" in line for line in caplog.messages) == 1


async def test_a_gpu_that_cannot_share_its_memory_is_not_asked_again(
    settings: Settings, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refuse(self: Gpu, nbytes: int) -> SharedMemory:
        asked.append(nbytes)
        raise GpuError("not supported")

    monkeypatch.setattr(type(gpu), "share", refuse)
    monkeypatch.setattr("visionmesh.device_memory.AGAIN", timedelta(0))
    async with open_context(settings, stage="preprocess", stream="IMAGES") as context:
        for _ in range(10):
            assert context.devices.arena(gpu) is None
            await asyncio.sleep(0)
    assert len(asked) == 1


async def test_a_gpu_that_is_not_there_is_told_of_and_done_without(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    without = settings.model_copy(
        update={"preprocess": settings.preprocess.model_copy(update={"device": "cuda:77"})}
    )
    async with open_context(without, stage="preprocess", stream="IMAGES") as context:
        assert context.gpu is None
    assert any("cuda:77" in line for line in caplog.messages)


async def test_a_worker_tells_on_which_gpus_it_reads_until_one_cannot_be_mapped(
    gpu: Gpu, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    uuid = gpu.info.uuid
    async with open_context(settings, stage="postprocess", stream="OUTPUTS") as context:
        await context.nodes.start(load=lambda: 0.0)
        assert context.gpu is gpu
        assert (await told(context)).devices == (uuid,)
        slab = create_slab(
            settings.shm_dir / "broken",
            slots=1,
            slot_bytes=mmap.PAGESIZE,
            elsewhere=b"?" * 64 + uuid.encode(),
        )
        slab.generations[0] = 1
        location = CudaLocation(kind="cuda", arena="broken", slot=0, generation=1, length=0)
        reference = Reference(
            id="1", source="s", model="cats", version=1, sha256="0" * 64, location=location
        )
        for _ in range(3):
            with pytest.raises(Miss):
                await context.read(reference, memoryview(b""))

        async def withdrawn() -> bool:
            return (await told(context)).devices == ()

        await until(withdrawn)
        await context.devices.read([gpu])
        assert (await told(context)).devices == ()
    assert sum("cannot be mapped" in line for line in caplog.messages) == 1


async def test_who_only_writes_to_a_gpu_does_not_tell_that_it_reads_there(
    context: Context, gpu: Gpu
) -> None:
    assert context.gpu is gpu
    assert (await told(context)).devices == ()


async def test_memory_to_write_to_is_taken_before_it_is_wanted(context: Context, gpu: Gpu) -> None:
    assert capacity(gpu) in context.metrics.exposition()[0].decode()


async def test_what_is_laid_out_holds_up_nothing_else(
    context: Context, near: Near, gpu: Gpu, copying: Gate
) -> None:
    slot = await context.room(NODE, 40, near)
    job = asyncio.create_task(context.lay_out({"n": np.zeros(10, np.int32)}, slot, gpu))
    await asyncio.to_thread(copying.began.wait)
    copying.may_go_on.set()
    assert [meta.name for meta in await job] == ["n"]


async def test_who_is_cancelled_keeps_the_slot_until_nothing_is_copied_there_any_more(
    context: Context, near: Near, gpu: Gpu, copying: Gate
) -> None:
    async def write() -> None:
        with await context.room(NODE, 40, near) as slot:
            await context.lay_out({"n": np.zeros(10, np.int32)}, slot, gpu)

    job = asyncio.create_task(write())
    await asyncio.to_thread(copying.began.wait)
    ending = asyncio.create_task(end([job]))
    done, _ = await asyncio.wait((job,), timeout=2.5 * AGAIN.total_seconds())
    arena = context.devices.arena(gpu)
    assert arena is not None
    assert not done
    assert arena.used_bytes
    copying.may_go_on.set()
    await ending
    assert job.cancelled()
    assert not arena.used_bytes


async def test_how_full_the_memory_is_can_be_scraped(context: Context, near: Near) -> None:
    with await context.room(NODE, 1000, near) as slot:
        slot.commit()
    text = context.metrics.exposition()[0].decode()
    assert capacity(near.gpu) in text
    used = capacity(near.gpu).replace("capacity", "used").replace("1.048576e+06", "262144.0")
    assert used in text


def capacity(gpu: Gpu) -> str:
    """Return the line that tells of the arena."""
    labels = f'{{device="{gpu.info.uuid}",stage="preprocess"}}'
    return f"visionmesh_device_arena_capacity_bytes{labels} 1.048576e+06"
