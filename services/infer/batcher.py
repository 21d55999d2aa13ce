"""Dynamic batching: images from many bundles run together, and no engine waits for company."""

from __future__ import annotations

import asyncio
import math
import random
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from services.infer.engines import Engine, Image, Outputs
from services.infer.queue import Queue
from services.infer.units import Units, fitting
from visionmesh.errors import Code, Fatal, Reject, Retry


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Images that ran together; times are Unix time in nanoseconds."""

    id: int
    """Random, so that batches of several models can be told apart."""
    size: int
    answered: int
    """Images that the network could work on; the others were rejected."""
    engine: int
    """Index of the engine that ran them."""
    halved: bool
    """Memory lacked: the engine's largest batch is half of what it was, for a while."""
    started_ns: int
    finished_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchedOutput:
    """The network's outputs for one image: views into the outputs of its batch."""

    outputs: Outputs
    enqueued_ns: int
    batch: Batch


@dataclass(eq=False, slots=True)
class _Item:
    image: Image
    enqueued_ns: int
    done: asyncio.Future[BatchedOutput]
    urgent: bool
    home: bool


_Answer = Outputs | Reject | Retry
_Ran = tuple[list[_Item], list[_Answer], Batch]

_ROUNDS = 2
"""While at least so many more rounds of the same size wait for every engine, the batches of a
round are delivered together: nobody gets an answer later than those who wait behind."""


class Batcher:
    """Spreads images over engines, each of which works in a thread of its own.

    An idle engine takes at once what is there: its share of the images at hand among the engines
    that are idle, at most ``max_size``, in one of the sizes that it can run. Only where a partial
    batch costs as much as a full one (an engine whose smallest size is above 1) and other engines
    are at work does it wait for more images, until ``max_delay`` after the oldest was enqueued.
    Urgent images come first, as in `Queue`.

    ``units`` tells what each engine computes with, if they have to share it. Where another is at
    work on the same, an engine takes a batch only once it is as large as the other's: its copies
    overlap then, and the two do not end up with halves of what one could run.

    Made and used on the event loop. ``on_batch`` is called there once for each batch.
    """

    def __init__(
        self,
        *,
        engines: Sequence[Engine],
        max_size: int,
        max_delay: timedelta,
        units: Sequence[Hashable] | None = None,
        capacity: int | None = None,
        on_batch: Callable[[Batch], None] | None = None,
    ) -> None:
        self._engines = tuple(engines)
        self._units = Units(range(len(self._engines)) if units is None else units)
        self._max_size = max_size
        self._max_delay_ns = max_delay // timedelta(microseconds=1) * 1000
        # As many may wait as run: enough for no engine to be idle.
        self._places = asyncio.Semaphore(capacity or 2 * max_size * len(self._engines))
        self._on_batch = on_batch
        self._loop = asyncio.get_running_loop()
        self._arrived: list[_Item] = []
        self._failure: Fatal | None = None
        self._callers = 0
        self._closing = False
        self._drained = asyncio.Event()
        self._at_work = len(self._engines)
        self._ended = asyncio.Event()
        # What the threads share, guarded by the condition.
        self._changed = threading.Condition()
        self._queue: Queue[_Item] = Queue()
        self._idle: set[int] = set()
        self._running: dict[int, list[_Item]] = {}
        self._open = True
        for index, engine in enumerate(self._engines):
            # As daemons they cannot keep a process alive that ends in an error.
            threading.Thread(
                target=self._work, args=(index, engine), name=f"engine {index}", daemon=True
            ).start()

    @property
    def queued(self) -> int:
        """Images that wait for an engine."""
        return len(self._queue) + len(self._arrived)

    async def submit(
        self, image: Image, *, urgent: bool = False, home: bool = True
    ) -> BatchedOutput:
        """Run one image, (H, W, C) uint8, and return its outputs; wait while the queue is full.

        The image is read, not copied, until the call ends. A cancelled call leaves the queue. An
        ``urgent`` image waits for no place: those that it is to overtake have them. Unless one
        image of its batch wants them ``home``, the outputs may stay in a GPU's memory.

        Raises
        ------
        Reject
            (model_failed) if the network cannot work on this image.
        Retry
            (model_not_ready) if the batcher is closing.
        Fatal
            If an engine broke.
        """
        if self._closing:
            raise Retry("The model is being exchanged.", code=Code.MODEL_NOT_READY)
        self._callers += 1
        try:
            if urgent:
                return await self._enqueue(image, urgent=True, home=home)
            async with self._places:
                return await self._enqueue(image, urgent=False, home=home)
        finally:
            self._callers -= 1
            if self._closing and not self._callers:
                self._drained.set()

    async def close(self) -> None:
        """Take no more images, run all that were submitted, end the threads, close the engines."""
        self._closing = True
        if self._callers:
            await self._drained.wait()
        with self._changed:
            self._open = False
            self._changed.notify_all()
        await self._ended.wait()
        # Some wait for a device, or for processes of theirs.
        await asyncio.to_thread(self._close_engines)

    def _close_engines(self) -> None:
        for engine in self._engines:
            engine.close()

    def _enqueue(self, image: Image, *, urgent: bool, home: bool) -> asyncio.Future[BatchedOutput]:
        if self._failure:
            raise self._failure
        item = _Item(image, time.time_ns(), self._loop.create_future(), urgent, home)
        if not self._arrived:
            # Whatever else arrives in this turn of the loop is shared out with it.
            self._loop.call_soon(self._hand_over)
        self._arrived.append(item)
        return item.done

    def _hand_over(self) -> None:
        with self._changed:
            for item in self._arrived:
                self._queue.put(item, urgent=item.urgent)
            # One that goes on waiting for its unit must not keep the news from another.
            self._changed.notify(len(self._engines) if self._units.shared else len(self._arrived))
        self._arrived.clear()

    def _work(self, index: int, engine: Engine) -> None:
        """What an engine's thread does until the batcher is closed."""
        failure: Fatal | None = Fatal(Code.INTERNAL, "An engine's thread died; see the log.")
        try:
            while items := self._next_items(index, engine):
                size = engine.batch_sizes[-1]
                ran = [
                    self._run(index, engine, items[at : at + size])
                    for at in range(0, len(items), size)
                ]
                self._loop.call_soon_threadsafe(self._deliver, ran)
            failure = None
        except Fatal as error:
            failure = error
        finally:
            self._loop.call_soon_threadsafe(self._end, index, failure)

    def _run(self, index: int, engine: Engine, items: list[_Item]) -> _Ran:
        started_ns = time.time_ns()
        largest = engine.batch_sizes[-1]
        home = any(item.home for item in items)
        answers = _answers(engine, [item.image for item in items], home=home)
        batch = Batch(
            id=random.getrandbits(63),
            size=len(items),
            answered=sum(isinstance(answer, dict) for answer in answers),
            engine=index,
            halved=engine.batch_sizes[-1] < largest,
            started_ns=started_ns,
            finished_ns=time.time_ns(),
        )
        return items, answers, batch

    def _next_items(self, index: int, engine: Engine) -> list[_Item]:
        """Wait for images and take a share of them; return none when the batcher is closed."""
        with self._changed:
            self._running.pop(index, None)
            while True:
                self._forget_cancelled()
                patience = self._patience(index, engine.batch_sizes) if self._queue else None
                if patience == 0:
                    size = self._share(index, engine.batch_sizes)
                    items = [self._queue.take() for _ in range(size)]
                    self._running[index] = items
                    return items
                if not self._queue and not self._open:
                    return []
                self._idle.add(index)
                self._changed.wait(patience)
                self._idle.discard(index)

    def _forget_cancelled(self) -> None:
        if any(item.done.done() for item in self._queue):
            self._queue.keep(lambda item: not item.done.done())

    def _share(self, index: int, sizes: tuple[int, ...]) -> int:
        """Return how many images an engine takes that can run batches of ``sizes``."""
        even = math.ceil(len(self._queue) / self._units.free(index, self._idle, self._running))
        wanted = min(max(even, sizes[0]), max(self._max_size, sizes[0]))
        size = fitting(sizes, wanted)
        behind = len(self._queue) // (_ROUNDS * len(self._engines))
        return min(max(size, min(behind, self._max_size) // size * size), len(self._queue))

    def _patience(self, index: int, sizes: tuple[int, ...]) -> float | None:
        """Return for how many seconds it is worth waiting for more images.

        `None`: until they are there, or who runs on the same unit has finished and takes them.
        """
        if not self._running or not self._open:
            return 0
        if len(self._queue) >= sizes[0]:
            ahead = min(self._units.ahead(index, self._running), sizes[-1])
            return None if ahead and self._share(index, sizes) < ahead else 0
        waited_ns = time.time_ns() - min(item.enqueued_ns for item in self._queue.heads)
        return min(max(0, self._max_delay_ns - waited_ns), self._max_delay_ns) / 1e9

    def _deliver(self, ran: Sequence[_Ran]) -> None:
        for items, answers, batch in ran:
            for item, answer in zip(items, answers, strict=True):
                if item.done.done():
                    continue  # its submitter has gone
                if isinstance(answer, Reject | Retry):
                    item.done.set_exception(answer)
                else:
                    item.done.set_result(
                        BatchedOutput(outputs=answer, enqueued_ns=item.enqueued_ns, batch=batch)
                    )
            if self._on_batch:
                self._on_batch(batch)

    def _end(self, index: int, failure: Fatal | None) -> None:
        """Note that a thread ended; if it broke, fail all that waits: the worker is unfit."""
        if failure:
            self._failure = failure
            with self._changed:
                lost = [*self._running.pop(index, ()), *self._queue, *self._arrived]
                self._queue.clear()
            for item in lost:
                if not item.done.done():
                    item.done.set_exception(failure)
        self._at_work -= 1
        if not self._at_work:
            self._ended.set()


def _answers(engine: Engine, images: Sequence[Image], *, home: bool) -> list[_Answer]:
    """Run the images together; if that fails, one by one, so that a bad one fails alone."""
    try:
        outputs = engine.run(images, home=home)
    except Retry as error:
        return [error] * len(images)
    except Reject as error:
        if len(images) == 1:
            return [error]
        return [_answers(engine, [image], home=home)[0] for image in images]
    return [{name: array[at, ...] for name, array in outputs.items()} for at in range(len(images))]
