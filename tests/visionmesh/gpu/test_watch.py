"""The GPUs that a process may use are watched, and no others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from tests.driver import LOST, Driver
from visionmesh.gpu.listing import GpuListing, GpuSlice
from visionmesh.gpu.watch import GpuWatch, usable

SLICES = tuple(GpuSlice(uuid=f"MIG-{at}", profile="1g.10gb") for at in range(2))
GPUS = (
    GpuListing(index=0, uuid="GPU-aa11", name="NVIDIA H100"),
    GpuListing(index=1, uuid="GPU-bb22", name="NVIDIA H100", slices=SLICES),
)


@pytest.fixture
async def looks() -> asyncio.Queue[None]:
    return asyncio.Queue()


@pytest.fixture
async def watch(driver: Driver, looks: asyncio.Queue[None]) -> AsyncIterator[GpuWatch]:
    async def looked() -> None:
        looks.put_nowait(None)

    watch = GpuWatch(looked=looked, period=timedelta(milliseconds=10), environment={})
    await watch.start()
    assert driver.open
    yield watch
    await watch.stop()
    assert not driver.open


async def test_a_gpu_that_fails_while_it_is_used_is_unfit_and_may_recover(
    watch: GpuWatch, looks: asyncio.Queue[None], driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    uuid = "uuid of gpu0"
    assert looks.qsize() == 1, "it has looked once it was started"
    assert watch.unfit([uuid]) is None

    driver.lost["gpu0"] = LOST
    async with asyncio.timeout(10):
        while watch.unfit([uuid]) is None:
            await looks.get()
        assert watch.unfit([uuid]) == f"GPU 0 ({uuid}): the driver has lost it: GPU is lost"
        assert watch.unfit(["uuid of gpu1", "EMULATED-0"]) is None, "others are as they were"
        driver.lost.clear()
        while watch.unfit([uuid]) is not None:
            await looks.get()
    said = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert said == [f"GPU 0 ({uuid}) must not be used: the driver has lost it: GPU is lost"]


@pytest.mark.parametrize("fault", ["lost", "reported"])
async def test_a_slice_of_an_unfit_gpu_is_unfit(
    watch: GpuWatch, looks: asyncio.Queue[None], driver: Driver, fault: str
) -> None:
    part = "uuid of gpu1 slice 2"
    assert watch.unfit([part]) is None
    if fault == "lost":
        driver.lost["gpu1"] = LOST
    else:
        driver.reports = [("gpu1", 79)]
    async with asyncio.timeout(10):
        while watch.unfit([part]) is None:
            await looks.get()


async def test_the_driver_is_not_closed_while_it_is_read(driver: Driver) -> None:
    watch = GpuWatch(looked=_nothing, period=timedelta(milliseconds=1), environment={})
    await watch.start()
    reading, go_on = threading.Event(), threading.Event()
    open_until_the_end = []

    def slow(*_: object) -> int:
        reading.set()
        assert go_on.wait(timeout=10)
        open_until_the_end.append(driver.open)
        return 50

    driver.answers["nvmlDeviceGetTemperature"] = slow
    assert await asyncio.to_thread(reading.wait, 10)
    stopping = asyncio.create_task(watch.stop())
    for _ in range(10):
        await asyncio.sleep(0)  # it goes as far as it can
    go_on.set()
    await stopping
    assert open_until_the_end == [True, True], "one for each GPU"
    assert not driver.open


async def test_without_a_driver_there_is_nothing_to_watch(driver: Driver) -> None:
    driver.absent = True
    watch = GpuWatch(looked=_never)
    await watch.start()
    assert watch.seen == ()
    assert watch.unfit(["GPU-1"]) is None
    await watch.stop()


@pytest.mark.parametrize(
    ("visible", "seen"),
    [
        (None, ["GPU-aa11", "GPU-bb22"]),
        ("", []),
        ("1", ["GPU-bb22"]),
        ("GPU-aa11", ["GPU-aa11"]),
        ("GPU-bb", ["GPU-bb22"]),
        ("0,1", ["GPU-aa11", "GPU-bb22"]),
        ("7", []),
    ],
)
def test_what_cuda_does_not_show_is_not_watched(visible: str | None, seen: list[str]) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert [gpu.uuid for gpu in usable(GPUS, environment)] == seen


def test_of_a_gpu_of_which_a_slice_is_visible_the_others_are_not_told() -> None:
    [gpu] = usable(GPUS, {"CUDA_VISIBLE_DEVICES": "MIG-1"})
    assert (gpu.uuid, gpu.slices) == ("GPU-bb22", SLICES[1:])


async def _nothing() -> None:
    pass


async def _never() -> None:
    raise AssertionError("nothing was looked at")
