"""Where pixels and outputs may stay on a GPU: where all who may take them read them there."""

from __future__ import annotations

import pytest

from tests.visionmesh.conftest import Join, sees
from tests.workers import running


async def test_what_is_on_a_gpu_may_stay_there_while_all_who_may_take_it_read_it_there(
    join: Join,
) -> None:
    here = await join("a", "preprocess")

    def may_stay(model: str | None = "cats") -> bool:
        return here.all_read("GPU-1", stage="infer", model=model)

    await join("b", "infer", **running("cats", "GPU-1"), ready=True)
    dogs = await join("a", "infer", **running("dogs", "cpu"), ready=True)
    await sees(lambda: here.serving("dogs"))
    assert not may_stay()
    await join("a", "infer", **running("cats", "GPU-1"), ready=True)
    await sees(may_stay)
    assert not here.all_read("GPU-2", stage="infer", model="cats")
    assert not may_stay(model=None)
    second = await join("a", "infer", **running("cats", "GPU-2"), ready=True)
    await sees(lambda: not may_stay())
    await second.update(**running("cats", "GPU-1"))
    await sees(may_stay)
    await second.update(devices=())
    await sees(lambda: not may_stay())
    await second.stop()
    await dogs.stop()
    await sees(lambda: may_stay(model=None))


async def test_what_is_on_a_gpu_leaves_it_as_soon_as_one_may_take_it_who_is_not_ready(
    join: Join,
) -> None:
    here = await join("a", "preprocess")
    await join("a", "infer", **running("cats", "GPU-1"), ready=True)
    await sees(lambda: here.all_read("GPU-1", stage="infer", model="cats"))
    unfit = await join("a", "infer", models={"cats": (1,)})
    await sees(lambda: not here.all_read("GPU-1", stage="infer", model="cats"))
    await unfit.stop()
    await sees(lambda: here.all_read("GPU-1", stage="infer", model="cats"))


async def test_outputs_stay_on_a_gpu_where_all_who_may_take_them_reduce_them_there(
    join: Join,
) -> None:
    here = await join("a", "infer")

    def may_stay(version: str) -> bool:
        return here.all_read("GPU-1", stage="postprocess", reduced=version)

    both = ("cats/1", "cats/2")
    first = await join("a", "postprocess", devices=("GPU-1",), reduces=both)
    await sees(lambda: may_stay("cats/1") and may_stay("cats/2"))
    assert not may_stay("dogs/1")
    await join("a", "postprocess", devices=("GPU-1",), reduces=("cats/2",))
    await sees(lambda: not may_stay("cats/1"))
    assert may_stay("cats/2")
    await first.update(devices=())
    await sees(lambda: not may_stay("cats/2"))


@pytest.mark.parametrize("devices", [("cpu", "GPU-1"), ("GPU-1", "GPU-2")])
async def test_what_is_on_a_gpu_leaves_it_for_a_model_that_runs_elsewhere_too(
    join: Join, devices: tuple[str, ...]
) -> None:
    here = await join("a", "preprocess")
    worker = await join("a", "infer", **running("cats", *devices), ready=True)
    await sees(lambda: here.all_read("GPU-1", stage="infer"))
    assert not here.all_read("GPU-1", stage="infer", model="cats")
    await worker.update(**running("cats", "GPU-1"))
    await sees(lambda: here.all_read("GPU-1", stage="infer", model="cats"))
    # Asleep, it may wake up anywhere.
    await worker.update(loaded=())
    await sees(lambda: not here.all_read("GPU-1", stage="infer", model="cats"))
