from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.infer.batcher import Batch, BatchedOutput, Batcher
from services.infer.engines import Engine, Image, Outputs, open_engines
from tests.networks import expected, save_network
from visionmesh.errors import Code, Fatal, Reject, Retry
from visionmesh.models.spec import Instance, ModelSpec

BAD, DEADLY = 250, 251
WAIT = 10.0


class GatedEngine:
    """Answers each image's first byte, but only when the test lets the batch pass."""

    def __init__(self, *, batch_sizes: tuple[int, ...] = (1, 2, 3, 4), gated: bool = True) -> None:
        self.batch_sizes = batch_sizes
        self.batches: list[list[int]] = []
        self.closed = False
        self._gate = threading.Semaphore(0 if gated else 10_000)

    def run(self, images: Sequence[Image]) -> Outputs:
        numbers = [int(image.flat[0]) for image in images]
        self.batches.append(numbers)
        assert self._gate.acquire(timeout=WAIT)
        if DEADLY in numbers:
            raise Fatal(Code.MODEL_FAILED, "The session is broken.")
        if BAD in numbers:
            raise Reject(Code.MODEL_FAILED, "The network fails.")
        return {"number": np.array(numbers)}

    def warm(self) -> None: ...

    def close(self) -> None:
        self.closed = True

    def let_pass(self, batches: int = 1) -> None:
        self._gate.release(batches)


def image(number: int) -> Image:
    return np.full((2, 2, 3), number, np.uint8)


def batcher_of(*engines: Engine, **more: Any) -> Batcher:
    return Batcher(**{"max_size": 4, "max_delay": timedelta(seconds=WAIT), **more}, engines=engines)


def submit(
    batcher: Batcher, *numbers: int, urgent: bool = False
) -> list[asyncio.Task[BatchedOutput]]:
    return [asyncio.create_task(batcher.submit(image(number), urgent=urgent)) for number in numbers]


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.001)


async def until_queued(batcher: Batcher, count: int) -> None:
    await until(lambda: batcher.queued == count)
    await asyncio.sleep(0)  # what arrived in this turn of the loop is handed over at its end


async def numbers_of(tasks: list[asyncio.Task[BatchedOutput]]) -> list[int]:
    return [int(output.outputs["number"]) for output in await asyncio.gather(*tasks)]


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
    engine.let_pass(4)
    assert await numbers_of(tasks) == list(range(8))
    assert [len(batch) for batch in engine.batches] == [1, 4, 2, 1]
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
    spec = ModelSpec.model_validate(
        {
            "name": "trees",
            "task": "classification",
            "input": {"width": 6, "height": 8},
            "output": {"decoder": "softmax"},
        }
    )
    file = save_network(tmp_path / "m.onnx", seed=3)
    batcher = batcher_of(*open_engines(file, spec, Instance(), count=2), max_size=8)
    images = [
        np.random.default_rng(seed).integers(0, 256, (8, 6, 3), np.uint8) for seed in range(300)
    ]

    answers = await asyncio.gather(*(batcher.submit(image) for image in images))

    scores = np.stack([answer.outputs["scores"] for answer in answers])
    planes = np.stack(images).transpose(0, 3, 1, 2).astype(np.float32)
    np.testing.assert_allclose(scores, expected(planes, 3), rtol=1e-4, atol=1e-3)
    assert max(answer.batch.size for answer in answers) == 8
    await batcher.close()
