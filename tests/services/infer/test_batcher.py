"""Which images run together, and what they are answered."""

from __future__ import annotations

import asyncio
import itertools
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from services.infer.batcher import Batch
from services.infer.engines import open_engines
from tests.networks import describe, expected, save_network
from tests.services.infer.gated import (
    FULL,
    HALVING,
    GatedEngine,
    batcher_of,
    image,
    numbers_of,
    submit,
    until,
    until_queued,
)
from visionmesh.errors import Retry
from visionmesh.models.spec import Instance


async def test_an_idle_engine_takes_at_once_what_is_there() -> None:
    engine = GatedEngine(gated=False)
    batcher = batcher_of(engine)
    assert await numbers_of(submit(batcher, 7)) == [7]
    assert await numbers_of(submit(batcher, 1, 2, 3)) == [1, 2, 3]
    assert engine.batches == [[7], [1, 2, 3]]
    await batcher.close()
    assert engine.closed


async def test_images_that_come_while_engines_work_run_together() -> None:
    engine = GatedEngine()
    batcher = batcher_of(engine)
    tasks = submit(batcher, 0)
    await until(lambda: engine.batches == [[0]])
    for number in range(1, 7):
        tasks += submit(batcher, number)
        await until_queued(batcher, number)
    engine.let_pass(3)

    assert await numbers_of(tasks) == list(range(7))
    assert engine.batches == [[0], [1, 2, 3, 4], [5, 6]]
    await batcher.close()


async def test_outputs_may_stay_on_the_device_unless_one_of_their_batch_wants_them_home() -> None:
    engine = GatedEngine(gated=False)
    batcher = batcher_of(engine)
    wishes = [(False, False), (False, True, False), (True,)]
    for wished in wishes:
        await asyncio.gather(*(batcher.submit(image(1), home=home) for home in wished))
    await batcher.submit(image(1))
    assert engine.home == [False, True, True, True]
    assert [len(batch) for batch in engine.batches] == [2, 3, 1, 1]
    await batcher.close()


@pytest.mark.parametrize(
    ("count", "shares"), [(2, [1, 1]), (3, [1, 2]), (4, [2, 2]), (5, [2, 3]), (8, [4, 4])]
)
async def test_idle_engines_share_what_is_there(count: int, shares: list[int]) -> None:
    engines = GatedEngine(), GatedEngine()
    batcher = batcher_of(*engines)
    tasks = submit(batcher, *range(count))
    await until(lambda: sum(len(b) for e in engines for b in e.batches) == count)

    assert sorted(len(engine.batches[0]) for engine in engines) == shares

    for engine in engines:
        engine.let_pass()
    assert await numbers_of(tasks) == list(range(count))
    await batcher.close()


async def test_batches_have_sizes_that_the_engine_can_run() -> None:
    engine = GatedEngine(batch_sizes=(1, 2, 4, 8))
    batcher = batcher_of(engine, max_size=8)
    tasks = submit(batcher, 0)
    await until(lambda: engine.batches)
    tasks += submit(batcher, *range(1, 8))
    await until_queued(batcher, 7)
    engine.let_pass(2)
    assert await numbers_of(tasks) == list(range(8))
    tasks = submit(batcher, *range(5))
    engine.let_pass(2)
    assert await numbers_of(tasks) == list(range(5))
    assert [len(batch) for batch in engine.batches] == [1, 7, 4, 1]
    await batcher.close()


async def test_engines_on_one_unit_do_not_halve_what_one_could_run() -> None:
    first, second = engines = GatedEngine(), GatedEngine()
    batcher = batcher_of(*engines, units=("gpu", "gpu"))
    tasks = submit(batcher, *range(4))
    await until(lambda: first.batches or second.batches)
    one, other = engines if first.batches else (second, first)
    assert one.batches == [[0, 1, 2, 3]]

    tasks += submit(batcher, 4, 5, 6)
    await until_queued(batcher, 3)
    tasks += submit(batcher, 7)
    # As many as the one has: they are copied while it computes.
    await until(lambda: other.batches == [[4, 5, 6, 7]])

    tasks += submit(batcher, 8, 9)
    await until_queued(batcher, 2)
    one.let_pass()
    assert await numbers_of(tasks[:4]) == [0, 1, 2, 3]
    # The other is at work with four, so the two wait for it, or for more.
    other.let_pass(2)
    assert await numbers_of(tasks[4:]) == list(range(4, 10))
    assert (len(one.batches), other.batches[1:]) == (1, [[8, 9]])
    await batcher.close()


async def test_units_share_what_is_there_whatever_the_engines_of_each() -> None:
    engines = [GatedEngine() for _ in range(4)]
    batcher = batcher_of(*engines, units=("a", "a", "b", "b"))
    tasks = submit(batcher, *range(8))
    await until(lambda: sum(len(b) for e in engines for b in e.batches) == 8)
    for pair in (engines[:2], engines[2:]):
        assert [len(batch) for engine in pair for batch in engine.batches] == [4]
    for engine in engines:
        engine.let_pass()
    assert await numbers_of(tasks) == list(range(8))
    await batcher.close()


async def test_what_a_device_cannot_do_now_is_tried_again_later() -> None:
    engine = GatedEngine(gated=False)
    batcher = batcher_of(engine)
    tasks = submit(batcher, 1, FULL)
    failed = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(error) for error in failed] == [Retry, Retry]
    assert await numbers_of(submit(batcher, 2)) == [2]
    await batcher.close()


async def test_a_batch_tells_that_it_was_too_large_for_the_memory() -> None:
    seen: list[Batch] = []
    engine = GatedEngine(batch_sizes=(1, 2, 4), gated=False)
    batcher = batcher_of(engine, on_batch=seen.append)
    await numbers_of(submit(batcher, 1, 2, HALVING, 3))
    await numbers_of(submit(batcher, 1, 2, 3))
    assert [(batch.size, batch.halved) for batch in seen] == [(4, True), (2, False), (1, False)]
    await batcher.close()


async def test_a_partial_fixed_batch_waits_for_company_only_while_others_work() -> None:
    engines = GatedEngine(batch_sizes=(4,)), GatedEngine(batch_sizes=(4,))
    batcher = batcher_of(*engines)
    tasks = submit(batcher, 0)
    await until(lambda: [[0]] in [engine.batches for engine in engines])
    tasks += submit(batcher, 1, 2)
    await until_queued(batcher, 2)
    tasks += submit(batcher, 3, 4)
    await until(lambda: [[1, 2, 3, 4]] in [engine.batches for engine in engines])
    for engine in engines:
        engine.let_pass(2)
    assert await numbers_of(tasks) == list(range(5))
    await batcher.close()


async def test_small_fixed_batches_are_delivered_together_while_as_many_wait() -> None:
    engine = GatedEngine(batch_sizes=(1,))
    batcher = batcher_of(engine, max_size=8)
    tasks = submit(batcher, 0)
    await until(lambda: engine.batches == [[0]])
    tasks += submit(batcher, *range(1, 8))
    await until_queued(batcher, 7)

    engine.let_pass(3)
    # Three of seven make a round: the first two have run, but are answered with the third.
    await until(lambda: engine.batches == [[0], [1], [2], [3]])
    assert [task.done() for task in tasks] == [True] + 7 * [False]
    engine.let_pass(5)

    answers = await asyncio.gather(*tasks)
    assert [output.batch.size for output in answers] == 8 * [1]
    assert [int(output.outputs["number"]) for output in answers] == list(range(8))
    await batcher.close()


async def test_a_partial_fixed_batch_waits_no_longer_than_the_delay() -> None:
    engines = GatedEngine(batch_sizes=(4,)), GatedEngine(batch_sizes=(4,))
    batcher = batcher_of(*engines, max_delay=timedelta(milliseconds=30))
    tasks = submit(batcher, 0)
    await until(lambda: [[0]] in [engine.batches for engine in engines])
    started = time.monotonic()
    tasks += submit(batcher, 1)
    await until(lambda: [[1]] in [engine.batches for engine in engines])
    assert time.monotonic() - started >= 0.029
    for engine in engines:
        engine.let_pass()
    assert await numbers_of(tasks) == [0, 1]
    await batcher.close()


async def test_batches_tell_when_and_where_they_ran() -> None:
    seen: list[Batch] = []
    engines = GatedEngine(gated=False), GatedEngine(gated=False)
    batcher = batcher_of(*engines, on_batch=seen.append)
    before = time.time_ns()
    outputs = await asyncio.gather(*submit(batcher, 1, 2, 3))
    assert sum(batch.size for batch in seen) == 3
    assert {output.batch.id for output in outputs} == {batch.id for batch in seen}
    for output in outputs:
        batch = output.batch
        assert isinstance(output.outputs["number"], np.ndarray)
        assert before <= output.enqueued_ns <= batch.started_ns <= batch.finished_ns
        assert int(output.outputs["number"]) in itertools.chain(*engines[batch.engine].batches)
    await batcher.close()


async def test_a_real_network_answers_each_image_as_if_alone(tmp_path: Path) -> None:
    file = save_network(tmp_path / "m.onnx", seed=3)
    batcher = batcher_of(*open_engines(file, describe(), Instance(), count=2), max_size=8)
    images = [
        np.random.default_rng(seed).integers(0, 256, (8, 6, 3), np.uint8) for seed in range(300)
    ]

    answers = await asyncio.gather(*(batcher.submit(image) for image in images))

    scores = np.stack([answer.outputs["scores"] for answer in answers])
    planes = np.stack(images).transpose(0, 3, 1, 2).astype(np.float32)
    np.testing.assert_allclose(scores, expected(planes, 3), rtol=1e-4, atol=1e-3)
    assert max(answer.batch.size for answer in answers) == 8
    await batcher.close()
