"""Events from EVENTS: one durable consumer for each model, its window the mesh's."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import timedelta

from services.ingest.admission import Admission, Arrival
from visionmesh import subjects
from visionmesh.bus import Delivery, KeepAlive, Puller, api, origin, topology
from visionmesh.context import Context
from visionmesh.contracts import Reference
from visionmesh.errors import Reject, VisionmeshError
from visionmesh.events import Event, id_of, parse
from visionmesh.models.record import ModelRecord
from visionmesh.stage import DRAIN
from visionmesh.tasks import end
from visionmesh.trail import Trail

RETIRE = timedelta(seconds=10)
"""Between two looks whether the last event of a removed model has ended."""
_CONSUMER_PREFIX = "ingest_"

log = logging.getLogger(__name__)


class Intake:
    """Pulls every model's events and has them admitted."""

    def __init__(self, *, context: Context, admission: Admission) -> None:
        self._context = context
        self._admission = admission
        self._events = context.settings.events
        self._pullers: dict[str, Puller] = {}
        self._windows: dict[str, int] = {}
        """Images in flight, by model; a removed model's events are refused one by one."""
        self._parked: set[str] = set()
        """Models that were unloaded by request: their events wait."""
        self._pulls = False
        self._turn = asyncio.Lock()
        """One change at a time: models may be pushed while `start` looks after others."""
        self._held = KeepAlive(connection=context.connection, ack_wait=self._events.ack_wait)
        self._tasks: set[asyncio.Task[None]] = set()
        self._retiring: asyncio.Task[None] | None = None

    @property
    def in_hand(self) -> int:
        return len(self._tasks)

    async def start(self) -> None:
        """Pull for all models, and for removed ones whose events are still to be refused."""
        self._context.catalog.on_change(self._model_changed)
        await self._context.catalog.start()
        self._held.start()
        async with self._turn:
            # Only now: with the models known so far, others would be refused meanwhile.
            self._pulls = True
            await self._declare_stream()
            for model in {*self._windows, *await self._left_behind()}:
                await self._pull(model)
        self._retiring = asyncio.create_task(self._retire_removed(), name="retire consumers")

    async def stop(self) -> None:
        if self._retiring is not None:
            await end([self._retiring])
        async with self._turn:
            # A model that is pushed meanwhile must not be pulled any more.
            self._pulls = False
            await asyncio.gather(*(puller.stop() for puller in self._pullers.values()))
        self._admission.sending.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=DRAIN.total_seconds())
        await self._held.stop()

    async def _model_changed(self, name: str, record: ModelRecord | None) -> None:
        """Follow the registry; a removed model is pulled on, so that its events are refused."""
        waited = name in self._parked
        if record is not None and record.parked:
            self._parked.add(name)
        else:
            self._parked.discard(name)
        if record is None:
            self._windows.pop(name, None)
            self._context.metrics.forget(name)
        else:
            self._windows[name] = record.spec.window
        async with self._turn:
            if self._pulls:
                await self._declare_stream()
                if record is not None:
                    await self._declare_consumer(name)
                if record is not None or waited:
                    await self._pull(name)

    async def _declare_consumer(self, model: str) -> str:
        window = self._windows.get(model, 1)
        config = topology.events_consumer(model, window=window, settings=self._events)
        return await topology.ensure_consumer(
            self._context.connection.client, subjects.EVENTS, config
        )

    async def _declare_stream(self) -> None:
        config = topology.events_config(self._events, self._context.catalog.names())
        await topology.ensure_stream(self._context.connection.client, config)

    async def _left_behind(self) -> list[str]:
        answer = await api.request(
            self._context.connection.client, f"CONSUMER.NAMES.{subjects.EVENTS}"
        )
        names: list[str] = answer.get("consumers") or []
        return [
            name.removeprefix(_CONSUMER_PREFIX)
            for name in names
            if name.startswith(_CONSUMER_PREFIX)
        ]

    async def _retire_removed(self) -> None:
        while True:
            await asyncio.sleep(RETIRE.total_seconds())
            for model in self._pullers.keys() - self._windows.keys():
                try:
                    async with self._turn:
                        await self._retire(model)
                except VisionmeshError as error:
                    log.info("the consumer of %s is looked at again: %s", model, error)

    async def _retire(self, model: str) -> None:
        """Delete the consumer of a removed model whose events have all ended.

        Another worker that still pulls makes it again, and then deletes it itself.
        """
        if model in self._windows or model not in self._pullers:
            return
        client, events = self._context.connection.client, subjects.event(model, "*")
        if await api.sequence_of(client, subjects.EVENTS, seq=1, next_by_subj=events) is not None:
            return
        await self._pullers.pop(model).stop()
        consumer = f"{subjects.EVENTS}.{_CONSUMER_PREFIX}{model}"
        await api.request(client, f"CONSUMER.DELETE.{consumer}")
        self._context.metrics.forget(model)

    async def _pull(self, model: str) -> None:
        """Pull the model's events, unless they are to wait."""
        if model in self._parked:
            if (idle := self._pullers.pop(model, None)) is not None:
                await idle.stop()
            return
        if model in self._pullers:
            return
        puller = Puller(
            connection=self._context.connection,
            stream=subjects.EVENTS,
            declare=lambda: self._declare_consumer(model),
            capacity=self._context.own.concurrency,
            receive=lambda delivery: self._receive(puller, delivery),
        )
        await puller.start()
        self._pullers[model] = puller

    def _receive(self, puller: Puller, delivery: Delivery) -> None:
        self._held.take(delivery.ack)
        task = asyncio.create_task(self._take(delivery))
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._finished(task, puller, delivery))

    def _finished(self, task: asyncio.Task[None], puller: Puller, delivery: Delivery) -> None:
        self._tasks.discard(task)
        self._held.drop(delivery.ack)
        puller.done()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s: not admitted, it comes again", delivery.subject, exc_info=error)

    async def _take(self, delivery: Delivery) -> None:
        arrived_ns = time.time_ns()
        came = origin(delivery.ack)
        _, _, model, source = delivery.subject.split(".")
        original = (delivery.headers, delivery.body)
        try:
            event = parse(model=model, source=source, headers=delivery.headers, body=delivery.body)
            broken = None
        except Reject as error:
            id = id_of(headers=delivery.headers, body=delivery.body)
            event = Event(id=id, source=source, model=model, image=b"")
            broken = error
        reference = self._admission.reference(
            Arrival(
                event=event,
                received_ns=came.stored_ns,
                ack=delivery.ack,
                attempt=came.attempt,
            )
        )
        trail = self._context.trail(reference, arrived_ns=arrived_ns)
        self._context.metrics.model(model).queue_depth(came.pending)
        admission = self._admit(reference, event.image, broken, trail)
        (ending,) = await asyncio.gather(admission, return_exceptions=True)
        if ending is None:
            self._context.finished(model, trail, "ok")
            return
        settlement = self._context.settlement
        status, reason = await settlement.fail(reference, ending, event=original)
        trail.fail(reason)
        self._context.finished(model, trail, status, reason)

    async def _admit(
        self, reference: Reference, image: bytes, broken: Reject | None, trail: Trail
    ) -> None:
        if broken is not None:
            raise broken
        result = await self._admission.admit(reference, image, trail)
        if result is not None:
            await self._context.settlement.answer([(reference, result, None)])
