"""An engine that a test lets run batch by batch, and images by number for its batcher."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import numpy as np

from services.infer.batcher import BatchedOutput, Batcher
from services.infer.engines import Engine, Image, Outputs
from visionmesh.errors import Code, Fatal, Reject, Retry

BAD, DEADLY, FULL, HALVING = 250, 251, 252, 253
WAIT = 10.0


class GatedEngine:
    """Answers each image's first byte, but only when the test lets the batch pass."""

    def __init__(self, *, batch_sizes: tuple[int, ...] = (1, 2, 3, 4), gated: bool = True) -> None:
        self.batch_sizes = batch_sizes
        self.batches: list[list[int]] = []
        self.home: list[bool] = []
        """Of each batch, whether its outputs had to come home."""
        self.closed = False
        self._gate = threading.Semaphore(0 if gated else 10_000)

    def run(self, images: Sequence[Image], *, home: bool = True) -> Outputs:
        numbers = [int(image.flat[0]) for image in images]
        self.home.append(home)
        self.batches.append(numbers)
        assert self._gate.acquire(timeout=WAIT)
        if DEADLY in numbers:
            raise Fatal(Code.MODEL_FAILED, "The session is broken.")
        if FULL in numbers:
            raise Retry("The device is full.")
        if HALVING in numbers:
            self.batch_sizes = self.batch_sizes[:-1]
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
