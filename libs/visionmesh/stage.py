"""The heart of every service: pull, handle, pass on, acknowledge.

A stage gives each bundle of images to its handler, which yields what became of them as soon as it
is known: a `Forward` (the image goes to the next stage), a `Done` (it is answered), or an error of
`visionmesh.errors`. All else is done here: keep-alives, deadlines, queue times, spans, metrics,
acknowledgements, drain.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from visionmesh.bundle import decode
from visionmesh.bus import Delivery, KeepAlive, Puller, acknowledge, origin, topology
from visionmesh.cancelled import Cancelled
from visionmesh.context import Context
from visionmesh.contracts import Reference, Result
from visionmesh.errors import Expired, Fatal, Reject, Retry
from visionmesh.handover import Handover
from visionmesh.outbox import Forward
from visionmesh.settlement import BROKE_DELAY
from visionmesh.subjects import ANY_LANE
from visionmesh.tensors import Reading
from visionmesh.trail import Trail

DRAIN = timedelta(seconds=20)
"""How long a stopping stage may take for the images in its hands."""

MAX_HOLDERS = 3
"""A bundle that is delivered oftener has killed its holders, or they were very unlucky."""

GONE = "The caller has gone."

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Item:
    """One image in the hands of a stage."""

    reference: Reference
    reading: Reading
    """The payload: ``.view`` is read-only; ``.check()`` raises `Miss` if it was overwritten."""
    trail: Trail
    """Spans of this stage."""


@dataclass(slots=True)
class Done:
    """The image is answered."""

    result: Result
    handover: Handover | None = None
    """The network's outputs for a caller who wants them."""


Outcome = Forward | Done | BaseException
Ended = tuple[Item, Outcome]
Handler = Callable[[Sequence[Item]], AsyncIterator[Sequence[Ended]]]


class Stage:
    """Runs a handler over what its consumers deliver."""

    def __init__(self, *, context: Context, handler: Handler) -> None:
        self._context = context
        self._handler = handler
        self._name = context.stage
        self._events = context.settings.events
        self._pullers: dict[str, Puller] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        connection = context.connection
        self.cancelled = Cancelled(connection=connection)
        self._bundles = KeepAlive(connection=connection, ack_wait=self._events.hop_ack_wait)
        self._images = KeepAlive(connection=connection, ack_wait=self._events.ack_wait)

    @property
    def in_hand(self) -> int:
        """Images that this stage works on."""
        return len(self._images)

    async def start(self) -> None:
        await self.cancelled.start()
        self._bundles.start()
        self._images.start()

    async def listen_lanes(self, stream: str, subjects: str, *, name: str | None = None) -> None:
        """Take bundles for this node and for any; ``subjects`` lacks the lane.

        ``name`` is that of the durable consumers without the lane, by default the stage's.
        """
        for lane in (self._context.settings.node, ANY_LANE):
            durable = f"{name or self._name}_{lane}"
            if durable not in self._pullers:
                puller = self._puller(stream, durable, f"{subjects}.{lane}")
                await puller.start()
                self._pullers[durable] = puller
                model = subjects.split(".")[2].replace("*", "")
                self._context.metrics.watch_queue(puller.waiting, model=model, lane=lane)

    async def unlisten_lanes(self, name: str) -> None:
        """Take no more through the consumers of that name."""
        for lane in (self._context.settings.node, ANY_LANE):
            puller = self._pullers.pop(f"{name}_{lane}", None)
            if puller is not None:
                await puller.stop()

    async def stop(self) -> None:
        """Take nothing more, finish what is in hand."""
        await asyncio.gather(*(puller.stop() for puller in self._pullers.values()))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=DRAIN.total_seconds())
        if self._tasks:
            log.warning("%d images left; they are delivered again", self.in_hand)
        await self.cancelled.stop()
        await self._bundles.stop()
        await self._images.stop()

    def _puller(self, stream: str, durable: str, subject: str) -> Puller:
        client = self._context.connection.client
        config = topology.hop_consumer(durable, subject, settings=self._events)

        async def declare() -> str:
            await topology.ensure_streams(client, self._events)
            return await topology.ensure_consumer(client, stream, config)

        def receive(delivery: Delivery) -> None:
            self._bundles.take(delivery.ack)
            task = asyncio.create_task(self._work_bundle(puller, delivery))
            self._tasks.add(task)
            task.add_done_callback(lambda task: self._worked(task, delivery))

        puller = Puller(
            connection=self._context.connection,
            stream=stream,
            declare=declare,
            capacity=self._context.own.concurrency,
            receive=receive,
        )
        return puller

    async def _work_bundle(self, puller: Puller, delivery: Delivery) -> None:
        arrived_ns = time.time_ns()
        try:
            references, payloads = decode(delivery.body)
        except Reject as error:
            log.error("%s: %s", delivery.subject, error)
            references, payloads = [], memoryview(b"")
        try:
            if origin(delivery.ack).attempt > MAX_HOLDERS:
                await self._give_up(references)
            else:
                await self._work(references, payloads, arrived_ns)
            await acknowledge(self._context.connection, delivery.ack)
        except Fatal as error:
            self._context.fail(error)
        finally:
            # Whatever happened, this worker has them no more, and keeps nothing alive.
            for reference in references:
                self._images.drop(_key(reference))
            self._bundles.drop(delivery.ack)
            puller.done()

    def _worked(self, task: asyncio.Task[None], delivery: Delivery) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s: not settled, it comes again", delivery.subject, exc_info=error)

    async def _give_up(self, references: Iterable[Reference]) -> None:
        """Send images back whose workers died again and again; each time counts as an attempt."""
        for reference in references:
            error = Retry("The workers that held the image died.", delay=BROKE_DELAY)
            await self._end_in_error(reference, error, self._context.trail(reference))

    async def _work(
        self, references: Iterable[Reference], payloads: memoryview, arrived_ns: int
    ) -> None:
        left: dict[int, Item] = {}
        for reference in references:
            trail = self._context.trail(reference, arrived_ns=arrived_ns)
            self._images.take(_key(reference), age=_age(reference))
            try:
                reading = await self._context.read(reference, payloads)
            except Retry as error:
                await self._end_in_error(reference, error, trail)
                continue
            late = reference.deadline_ns is not None and time.time_ns() > reference.deadline_ns
            if late or reference.reply in self.cancelled:
                reading.release()
                await self._end_in_error(reference, Expired() if late else Expired(GONE), trail)
                continue
            item = Item(reference, reading, trail)
            left[id(item)] = item
        if left:
            await self._handle(left)

    async def _handle(self, left: dict[int, Item]) -> None:
        """Run the handler; what it does not account for, because it broke, is retried.

        One image that breaks it does not take its neighbours along: each is tried alone.
        """

        async def run() -> None:
            async for ended in self._handler(list(left.values())):
                await self._settle(ended)
                for item, _ in ended:
                    del left[id(item)]

        running = asyncio.ensure_future(run())
        await asyncio.wait((running,))
        broken = running.exception()
        if broken is None:
            return
        if len(left) > 1 and not isinstance(broken, Fatal):
            for item in list(left.values()):
                await self._handle({id(item): item})
        else:
            await self._settle([(item, broken) for item in left.values()])

    async def _settle(self, ended: Sequence[Ended]) -> None:
        onward = [
            (item.reference, outcome, item.trail)
            for item, outcome in ended
            if isinstance(outcome, Forward)
        ]
        answers = [
            (item.reference, outcome.result, outcome.handover)
            for item, outcome in ended
            if isinstance(outcome, Done)
        ]
        if onward:
            await self._context.outbox.pass_on(onward)
        if answers:
            await self._context.settlement.answer(answers)
        for item, outcome in ended:
            if isinstance(outcome, BaseException):
                await self._end_in_error(item.reference, outcome, item.trail)
            else:
                self._finish(item.reference, item.trail, "ok")
            item.reading.release()

    async def _end_in_error(self, reference: Reference, error: BaseException, trail: Trail) -> None:
        status, reason = await self._context.settlement.fail(reference, error)
        trail.fail(reason)
        self._finish(reference, trail, status, reason)

    def _finish(self, reference: Reference, trail: Trail, status: str, reason: str = "") -> None:
        self._images.drop(_key(reference))
        self._context.finished(reference.model, trail, status, reason)


def _age(reference: Reference) -> timedelta:
    """Return how long ago the image was received; clocks of other hosts may be ahead."""
    return timedelta(microseconds=max(0, time.time_ns() - reference.received_ns) / 1e3)


def _key(reference: Reference) -> str:
    return reference.ack or reference.reply or reference.id
