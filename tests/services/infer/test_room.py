"""Where a GPU does not hold all models, idle ones give way; what is in use never does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from services.infer.room import Bounds, promised
from tests.networks import describe
from tests.services.infer.gated import until
from tests.services.infer.scarce import GPU, MODELS, ON_GPU, SIZE, Pool
from visionmesh.errors import Code, Retry
from visionmesh.gpu import open_gpu
from visionmesh.models.registry import Registry

Make = Callable[..., Awaitable[Pool]]


@pytest.fixture
async def make(registry: Registry, tmp_path: Path) -> AsyncIterator[Make]:
    made: list[Pool] = []

    async def make(*, memory: int = 10_000, bound: int | None = None) -> Pool:
        made.append(Pool(registry, tmp_path, memory=memory, bound=bound))
        return made[-1]

    yield make
    for pool in made:
        await pool.pool.close()
        assert pool.device.used == 0, "all that was taken was given back"
    for record in await registry.list():
        if record.spec.name in MODELS:
            await registry.remove(record.spec.name)


@pytest.mark.parametrize("limits", [{"memory": 100}, {"bound": 100}], ids=["full", "bounded"])
async def test_the_version_that_is_idle_the_longest_gives_way_and_wakes_with_its_next_image(
    make: Make, limits: dict[str, int]
) -> None:
    pool = await make(**limits)
    await pool.apply("elms", "yews")
    await pool.answers("elms")
    await pool.apply("larches")
    assert pool.loaded == {"elms", "larches"}
    assert pool.pool.states.asleep == {("yews", 1): "it gave way to version 1 of larches"}
    assert pool.pool.versions["yews"] == (1,), "images may still be sent to it"

    await pool.answers("yews")
    assert pool.loaded == {"yews", "larches"}
    assert pool.pool.states.asleep.keys() == {("elms", 1)}
    assert pool.evicted == ["yews", "elms"]
    assert pool.pool.states.failures == {}


async def test_what_is_in_use_stays_and_who_has_to_wait_for_it_sleeps(make: Make) -> None:
    pool = await make(memory=60)
    await pool.apply("elms")
    async with pool.busy("elms"):
        await pool.apply("yews")
        assert pool.loaded == {"elms"}
        assert pool.pool.versions["yews"] == (1,), "its images wait, and are not refused"
        with pytest.raises(Retry, match="has to wait until there is room: 20 bytes") as caught:
            await pool.answers("yews")
        assert caught.value.code is Code.MODEL_NOT_READY
        assert "has to wait" in pool.pool.states.asleep["yews", 1]
        assert pool.pool.states.failures == {}
    await pool.answers("yews")
    assert pool.loaded == {"yews"}


async def test_idle_versions_give_way_to_large_batches_too_but_small_ones_do(make: Make) -> None:
    pool = await make(memory=100)
    await pool.apply("elms")
    pool.device.wants = 70
    await pool.apply("yews")
    assert pool.loaded == {"yews"}
    assert pool.pool.states.asleep.keys() == {("elms", 1)}
    assert pool.evicted == ["elms"]

    pool.device.wants = 1000
    await pool.answers("elms")
    assert pool.loaded == {"elms"}, "it runs as well as it can"


async def test_who_cannot_be_woken_now_wakes_with_a_later_image(make: Make) -> None:
    pool = await make(memory=60)
    await pool.apply("elms", "yews")
    pool.device.fault = Retry("The mesh cannot be reached.", code=Code.MODEL_NOT_READY)
    with pytest.raises(Retry, match="cannot be reached"):
        await pool.answers("elms")
    assert pool.pool.versions["elms"] == (1,)
    assert pool.pool.states.failures == {}
    pool.device.fault = None
    await pool.answers("elms")


async def test_what_was_dropped_and_still_runs_is_waited_for(make: Make) -> None:
    pool = await make(memory=60)
    await pool.apply("elms")
    async with pool.busy("elms"):
        await pool.pool.apply("elms", None)
        next_one = asyncio.create_task(pool.apply("yews"))
        assert await asyncio.to_thread(pool.device.refused.wait, 10)
    await next_one
    assert (pool.loaded, pool.pool.states.failures, pool.evicted) == ({"yews"}, {}, [])


async def test_a_version_that_is_too_large_for_its_gpu_fails(make: Make) -> None:
    pool = await make(memory=30)
    await pool.apply("elms")
    assert pool.pool.states.failures == {
        ("elms", 1): "Version 1 of 'elms' is too large for its GPU: 30 bytes are free."
    }
    assert pool.pool.versions == {}
    assert pool.evicted == []


async def test_a_version_waits_while_other_processes_fill_its_gpu(make: Make) -> None:
    pool = await make(memory=60)
    pool.device.others = 30
    await pool.apply("elms")
    assert pool.pool.states.failures == {}
    assert (
        "has to wait until there is room: 30 bytes are free" in pool.pool.states.asleep["elms", 1]
    )
    with pytest.raises(Retry):
        await pool.answers("elms")
    pool.device.others = 0
    await pool.answers("elms")


async def test_a_version_that_finds_no_room_runs_where_others_stand_in(make: Make) -> None:
    pool = await make(memory=60)
    pool.device.others = 30
    await pool.apply("elms", more=f"{ON_GPU}  - {{device: cpu, count: 1, fallback: true}}\n")
    [elms] = pool.pool.loaded
    assert elms.way.devices == ("cpu",)
    assert "has to wait until there is room: 30 bytes are free" in elms.told().why
    await pool.answers("elms")


async def test_who_has_to_wait_does_so_though_what_stands_in_does_not_work(make: Make) -> None:
    pool = await make(memory=60)
    pool.device.others = 30
    await pool.apply("elms", more=f"{ON_GPU}  - {{device: cpu, engines: [nix], fallback: true}}\n")
    assert "no engine 'nix' serves" in pool.pool.states.failures["elms", 1]
    more = "{device: emulated, fallback: true, options: {provider: abacus}}"
    await pool.apply("elms", more=f"{ON_GPU}  - {more}\n")
    assert "has to wait until there is room: 30 bytes" in pool.pool.states.asleep["elms", 1]


async def test_who_says_more_than_there_is_evicts_nobody(make: Make) -> None:
    pool = await make(bound=100)
    await pool.apply("elms")
    await pool.apply("yews", more="instances: [{device: emulated, memory: 101}]\n")
    assert "takes 101 bytes of EMULATED-0, of 100 in all" in pool.pool.states.failures["yews", 1]
    assert (pool.loaded, pool.evicted) == ({"elms"}, [])


async def test_a_version_beyond_all_bounds_fails_and_keeps_nothing(make: Make) -> None:
    pool = await make(bound=30)
    await pool.apply("elms")
    assert "takes 40 bytes of EMULATED-0, of 30 in all" in pool.pool.states.failures["elms", 1]
    assert pool.device.used == 0


async def test_a_new_build_without_room_beside_the_old_one_is_loaded_once_another_leaves(
    make: Make,
) -> None:
    pool = await make(memory=100)
    await pool.apply("elms", "yews")
    async with pool.busy("yews"):
        await pool.apply("elms", more=f"{ON_GPU}batching: {{max_size: 2}}\n")
        assert "has to wait until there is room" in pool.pool.states.failures["elms", 1]
        assert not pool.pool.is_current("elms", 1)
        await pool.answers("elms")
    await pool.pool.apply("yews", None)
    await until(lambda: pool.pool.is_current("elms", 1))
    assert pool.pool.states.failures == {}
    await pool.answers("elms")


async def test_how_far_a_version_is_that_is_loaded_is_told_until_it_is(make: Make) -> None:
    pool = await make()
    pool.device.tells = "a half of it"
    await pool.apply("elms")
    assert pool.loading[0] == {("elms", 1): "a half of it"}
    assert pool.loading[-1] == {}


async def test_who_says_what_it_takes_finds_room_before_it_is_loaded(make: Make) -> None:
    pool = await make(bound=100)
    said = "instances: [{device: emulated, memory: 50}]\n"
    await pool.apply("elms", "yews", "larches", more=said)
    assert pool.device.most == 2 * SIZE
    assert pool.loaded == {"yews", "larches"}


async def test_what_is_said_is_kept_free_even_if_less_is_taken(make: Make) -> None:
    pool = await make(bound=100)
    await pool.apply("elms", more="instances: [{device: emulated, memory: 70}]\n")
    await pool.apply("yews")
    assert pool.loaded == {"yews"}


async def test_who_takes_more_than_it_says_is_refused_with_the_figures(make: Make) -> None:
    pool = await make()
    await pool.apply("elms", more="instances: [{device: emulated, memory: 39}]\n")
    assert "39 bytes are said, but its engines took 40" in pool.pool.states.failures["elms", 1]
    assert (pool.loaded, pool.device.used) == (set(), 0)


async def test_what_is_built_meanwhile_is_not_taken_for_a_version(make: Make) -> None:
    pool = await make(bound=39)
    pool.device.exact = False
    await pool.apply("elms", more="instances: [{device: emulated, memory: 39}]\n")
    await pool.apply("yews", more="instances: [{device: emulated}]\n")
    assert (pool.loaded, pool.pool.states.failures) == ({"elms", "yews"}, {})


async def test_versions_that_are_loaded_at_once_keep_to_the_bounds(make: Make) -> None:
    pool = await make(bound=100)
    said = "instances: [{device: emulated, memory: 45}]\n"
    await pool.apply("elms", more=said)
    await asyncio.gather(*(pool.apply(name, more=said) for name in ("yews", "larches")))
    assert len(pool.loaded) == 2
    assert pool.device.most == 2 * SIZE


def test_bounds_are_the_smaller_of_bytes_and_share() -> None:
    memory = open_gpu("emulated").info.memory_bytes
    assert Bounds().of(GPU) == memory
    assert Bounds(nbytes=5).of(GPU) == 5
    assert Bounds(share=0.25).of(GPU) == memory // 4
    assert Bounds(nbytes=memory, share=0.5).of(GPU) == memory // 2


def test_what_is_said_of_devices_elsewhere_does_not_count() -> None:
    def said(*instances: dict[str, Any]) -> dict[str, int]:
        return promised(describe(instances=instances))

    assert said({"device": "emulated", "memory": "1KiB"}, {"device": "emulated", "memory": 6}) == {
        GPU: 1030
    }
    assert said({"device": "cuda:GPU-of-another-machine", "memory": 5}) == {}
    assert said({"device": "cpu", "memory": 5}, {"device": "emulated"}) == {}
