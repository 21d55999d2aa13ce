"""The queue of a batcher: its bound, its priorities, and how images leave it unanswered."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import pytest

from services.infer.batcher import Batch
from tests.services.infer.gated import (
    BAD,
    DEADLY,
    GatedEngine,
    batcher_of,
    image,
    numbers_of,
    submit,
    until,
    until_queued,
)
from visionmesh.errors import Code, Fatal, Reject, Retry


async def test_a_bad_image_fails_alone() -> None:
    engine, seen = GatedEngine(gated=False), list[Batch]()
    batcher = batcher_of(engine, on_batch=seen.append)
    good, bad, other = submit(batcher, 1, BAD, 3)
    with pytest.raises(Reject):
        await bad
    assert await numbers_of([good, other]) == [1, 3]
    assert [(batch.size, batch.answered) for batch in seen] == [(3, 2)]
    assert engine.batches == [[1, BAD, 3], [1], [BAD], [3]]
    await batcher.close()


async def test_a_broken_engine_fails_whatever_waits() -> None:
    engine = GatedEngine()
    batcher = batcher_of(engine)
    tasks = submit(batcher, DEADLY)
    await until(lambda: engine.batches)
    tasks += submit(batcher, 1, 2)
    await until_queued(batcher, 2)
    engine.let_pass()
    for task in tasks:
        with pytest.raises(Fatal):
            await task
    with pytest.raises(Fatal):
        await batcher.submit(image(3))
    await batcher.close()


async def test_a_cancelled_image_leaves_the_queue() -> None:
    engine = GatedEngine()
    batcher = batcher_of(engine)
    tasks = submit(batcher, 0)
    await until(lambda: engine.batches)
    gone, kept = submit(batcher, 1, 2)
    await until_queued(batcher, 2)
    gone.cancel()
    tasks[0].cancel()
    await asyncio.gather(gone, tasks[0], return_exceptions=True)
    engine.let_pass(2)
    assert await numbers_of([kept]) == [2]
    assert engine.batches == [[0], [2]]
    await batcher.close()


async def test_the_queue_is_bounded() -> None:
    engine = GatedEngine()
    batcher = batcher_of(engine, capacity=3)
    tasks = submit(batcher, *range(6))
    await until(lambda: engine.batches == [[0, 1, 2]])
    assert batcher.queued == 0
    engine.let_pass(2)
    assert await numbers_of(tasks) == list(range(6))
    assert engine.batches == [[0, 1, 2], [3, 4, 5]]
    await batcher.close()


async def test_urgent_images_overtake_those_that_wait_also_for_a_place() -> None:
    engine = GatedEngine(batch_sizes=(1,))
    batcher = batcher_of(engine, max_size=1, capacity=3)
    tasks = submit(batcher, *range(6))
    await until(lambda: engine.batches == [[0]])
    await until_queued(batcher, 2)
    tasks += submit(batcher, 6, 7, urgent=True)
    await until_queued(batcher, 4)
    engine.let_pass(8)
    assert await numbers_of(tasks) == list(range(8))
    assert [number for [number] in engine.batches] == [0, 6, 7, 1, 2, 3, 4, 5]
    await batcher.close()


async def test_urgent_and_other_images_share_a_batch() -> None:
    engine = GatedEngine()
    batcher = batcher_of(engine)
    tasks = submit(batcher, 0)
    await until(lambda: engine.batches)
    tasks += submit(batcher, 1, 2, 3)
    tasks += submit(batcher, 4, 5, urgent=True)
    await until_queued(batcher, 5)
    engine.let_pass(3)
    assert await numbers_of(tasks) == list(range(6))
    assert engine.batches == [[0], [4, 5, 1, 2], [3]]
    await batcher.close()


async def test_the_delay_counts_from_the_oldest_image_of_either_priority() -> None:
    delay = timedelta(milliseconds=300)
    engines = GatedEngine(batch_sizes=(4,)), GatedEngine(batch_sizes=(4,))
    batcher = batcher_of(*engines, max_delay=delay)
    tasks = submit(batcher, 0)
    await until(lambda: [[0]] in [engine.batches for engine in engines])
    tasks += submit(batcher, 1)
    began = time.monotonic()
    await until(lambda: time.monotonic() - began > delay.total_seconds() / 2)
    tasks += submit(batcher, 2, urgent=True)
    await until(lambda: [[2, 1]] in [engine.batches for engine in engines])
    for engine in engines:
        engine.let_pass()
    *_, other, urgent = await asyncio.gather(*tasks)
    assert urgent.batch == other.batch
    assert urgent.batch.started_ns - urgent.enqueued_ns < delay // timedelta(microseconds=1) * 1000
    await batcher.close()


async def test_closing_finishes_what_was_submitted_and_takes_no_more() -> None:
    engine = GatedEngine()
    batcher = batcher_of(engine, capacity=2)
    tasks = submit(batcher, *range(5))
    await until(lambda: engine.batches)
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0)
    with pytest.raises(Retry) as raised:
        await batcher.submit(image(9))
    assert raised.value.code is Code.MODEL_NOT_READY
    assert not engine.closed
    engine.let_pass(5)
    await closing
    assert await numbers_of(tasks) == list(range(5))
    assert engine.closed
