"""The heart of every service: pull, handle, pass on, acknowledge.

A stage gives each image of each bundle to its handler. The handler returns a `Forward` (the image
goes to the next stage) or an `Answer` (it is done), or raises what `visionmesh.errors` classes.
All else is done here: keep-alives, deadlines, queue times, spans, metrics, acknowledgements, drain.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from visionmesh.bundle import decode
from visionmesh.bus import Delivery, Puller, acknowledge, keep_alive, topology
from visionmesh.context import Context
from visionmesh.contracts import Reference, Result
from visionmesh.errors import Expired, Fatal, Reject, Retry
from visionmesh.outbox import Forward
from visionmesh.subjects import ANY_LANE
from visionmesh.tensors import Reading
from visionmesh.trail import Trail

DRAIN = timedelta(seconds=20)
"""How long a stopping stage may take for the images in its hands."""

BROKE_DELAY = timedelta(seconds=1)

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


Handler = Callable[[Item], Awaitable[Forward | Done]]


class Stage:
    """Runs a handler over what its consumers deliver."""

    def __init__(self, *, context: Context, handler: Handler) -> None:
        self._context = context
        self._handler = handler
        self._name = context.stage
        self._events = context.settings.events
        self._pullers: dict[str, Puller] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._bundles: dict[str, float] = {}
        self._images: dict[str, float] = {}
        """Ack subjects in hand, and when (monotonic) each was last kept alive."""
        self._idle = asyncio.Event()
        self._idle.set()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def in_hand(self) -> int:
        """Images that this stage works on."""
        return len(self._images)

    async def start(self) -> None:
        self._keeper = asyncio.create_task(self._keep_alive(), name="keep alive")

    async def listen(self, stream: str, name: str, subject: str, *, capacity: int) -> None:
        """Begin to take bundles from ``subject`` of ``stream`` through the durable ``name``."""
        if name in self._pullers:
            return
        connection = self._context.connection
        config = topology.hop_consumer(name, subject, settings=self._events)

        async def declare() -> str:
            await topology.ensure_streams(connection.client, self._events)
            return await topology.ensure_consumer(connection.client, stream, config)

        puller = Puller(
            connection=connection,
            stream=stream,
            declare=declare,
            capacity=capacity,
            receive=lambda delivery: self._receive(puller, delivery),
        )
        self._pullers[name] = puller
        await puller.start()

    async def listen_lanes(self, stream: str, subjects: str) -> None:
        """Take bundles of every model, for this node and for any; ``subjects`` lacks the lane."""
        for lane in (self._context.settings.node, ANY_LANE):
            await self.listen(
                stream,
                f"{self._name}_{lane}",
                f"{subjects}.{lane}",
                capacity=self._context.own.concurrency,
            )

    async def unlisten(self, name: str) -> None:
        """Take no more from the durable ``name``."""
        puller = self._pullers.pop(name, None)
        if puller is not None:
            await puller.stop()

    async def stop(self) -> None:
        """Take nothing more, finish what is in hand."""
        await asyncio.gather(*(puller.stop() for puller in self._pullers.values()))
        try:
            async with asyncio.timeout(DRAIN.total_seconds()):
                await self._idle.wait()
        except TimeoutError:
            log.warning("%d images left; they are delivered again", self.in_hand)
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    def _receive(self, puller: Puller, delivery: Delivery) -> None:
        self._bundles[delivery.ack] = time.monotonic()
        self._idle.clear()
        task = asyncio.create_task(self._work_bundle(puller, delivery))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work_bundle(self, puller: Puller, delivery: Delivery) -> None:
        try:
            references, payloads = decode(delivery.body)
        except Reject as error:
            log.error("%s: %s", delivery.subject, error)
            references, payloads = [], memoryview(b"")
        try:
            work = (self._work(reference, payloads) for reference in references)
            endings = await asyncio.gather(*work, return_exceptions=True)
            for reference, ending in zip(references, endings, strict=True):
                if ending is not None:
                    await self._broke(reference, ending)
            await acknowledge(self._context.connection, delivery.ack)
        except Fatal as error:
            self._context.fail(error)
        finally:
            del self._bundles[delivery.ack]
            puller.done()
            if not self._bundles:
                self._idle.set()

    async def _broke(self, reference: Reference, ending: BaseException) -> None:
        """Deal with an error that no one foresaw: this image again, the others go on."""
        if isinstance(ending, Fatal) or not isinstance(ending, Exception):
            raise ending
        log.error("%s of %s: %r", self._name, reference.id, ending, exc_info=ending)
        error = Retry(f"{self._name} broke with {type(ending).__name__}.", delay=BROKE_DELAY)
        await self._context.settlement.again(reference, error)

    async def _work(self, reference: Reference, payloads: memoryview) -> None:
        key = reference.ack or reference.reply or reference.id
        self._images[key] = time.monotonic() - (time.time_ns() - reference.received_ns) / 1e9
        trail = self._context.trail(reference)
        try:
            await self._handle(reference, payloads, trail)
        finally:
            self._images.pop(key, None)
            trail.close()

    async def _handle(self, reference: Reference, payloads: memoryview, trail: Trail) -> None:
        settlement = self._context.settlement
        metrics = self._context.metrics.model(reference.model)
        reading: Reading | None = None
        try:
            reading = self._context.read(reference, payloads)
            if reference.deadline_ns is not None and time.time_ns() > reference.deadline_ns:
                raise Expired
            outcome = await self._handler(Item(reference, reading, trail))
            if isinstance(outcome, Forward):
                await self._context.outbox.pass_on(reference, outcome, trail)
            else:
                await settlement.answer(reference, outcome.result)
            metrics.done("ok")
        except Retry as error:
            trail.fail(error)
            metrics.done("retry", error.code)
            self._context.metrics.redelivered()
            await settlement.again(reference, error)
        except (Reject, Expired) as error:
            trail.fail(error)
            status = "expired" if isinstance(error, Expired) else "error"
            metrics.done(status, error.code)
            await settlement.refuse(reference, error)
        if reading is not None:
            reading.release()
        metrics.inference((time.time_ns() - trail.began_ns) / 1e9)
        metrics.queued(trail.queued_ns / 1e9)

    async def _keep_alive(self) -> None:
        hop = self._events.hop_ack_wait.total_seconds() / 3
        event = self._events.ack_wait.total_seconds() / 3
        connection = self._context.connection
        while True:
            await asyncio.sleep(min(hop, event))
            now = time.monotonic()
            for held, limit in ((self._bundles, hop), (self._images, event)):
                for ack, since in list(held.items()):
                    if ack.startswith("$JS.ACK.") and now - since >= limit:
                        held[ack] = now
                        await keep_alive(connection, ack)
