"""Frames that cameras publish by MQTT to the NATS server's gateway, made events."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from visionmesh import subjects
from visionmesh.bus import (
    Delivery,
    KeepAlive,
    Puller,
    acknowledge,
    origin,
    return_later,
    topology,
)
from visionmesh.context import Context
from visionmesh.errors import Code, ConfigurationError, Refused, Reject
from visionmesh.events import Event
from visionmesh.publishing import once
from visionmesh.stage import DRAIN
from visionmesh.subjects import is_token, name_fault

AGAIN = timedelta(seconds=1)
"""Before a frame is tried again for which there was no room."""
IN_HAND = 16
"""Frames on their way to EVENTS in one worker, of each quality of service."""
_QUALITY = "Nmqtt-Pub"
_STAGE = "mqtt"
_SUBJECT = subjects.MQTT_FRAMES.removesuffix(">")

log = logging.getLogger(__name__)


class Frame(NamedTuple):
    """What a camera published, and the id of its event."""

    id: str
    topic: str
    """Behind ``vm/mqtt/``, as NATS writes it."""
    body: bytes


class Bridge:
    """Publishes every frame as an event.

    Frames of quality 1 and 2 lie in the gateway's stream until EVENTS has them. Their events' ids
    are made of the place there, so that one that is published twice has one result. Frames of
    quality 0 are nowhere kept: they are lost where there is no room.
    """

    def __init__(self, *, context: Context) -> None:
        self._context = context
        self._publisher = context.publisher
        self._tasks: set[asyncio.Task[None]] = set()
        self._fleeting: Subscription | None = None
        self._in_hand = 0
        """Of quality 0."""
        self._held = KeepAlive(
            connection=context.connection, ack_wait=context.settings.events.ack_wait
        )
        self._puller = Puller(
            connection=context.connection,
            stream=subjects.MQTT,
            declare=self._declare,
            capacity=IN_HAND,
            receive=self._receive,
        )

    async def start(self) -> None:
        """Take frames from now on; a server that lets nobody declare the gateway's stream has none.

        With an account's limits or rights that leave no room for it events by NATS still work.
        """
        try:
            await self._puller.start()
        except ConfigurationError as error:
            log.warning("no frames are taken by MQTT: %s", error.message)
            return
        self._held.start()
        self._fleeting = await self._context.connection.client.subscribe(
            subjects.MQTT_FRAMES, queue=_STAGE, cb=self._receive_fleeting
        )

    async def stop(self) -> None:
        """Take nothing more, and finish what is in hand."""
        if self._fleeting is None:
            return
        if not self._context.connection.client.is_closed:
            await self._fleeting.unsubscribe()
        await self._puller.stop()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=DRAIN.total_seconds())
        await self._held.stop()

    async def _declare(self) -> str:
        return await topology.ensure_mqtt(self._context.connection.client, self._context.settings)

    def _receive(self, delivery: Delivery) -> None:
        self._held.take(delivery.ack)
        self._begin(self._take(delivery))

    async def _receive_fleeting(self, message: Msg) -> None:
        """Take a frame of quality 0; the others come here too, and are in the stream."""
        if (message.headers or {}).get(_QUALITY) != "0":
            return
        topic = message.subject.removeprefix(_SUBJECT)
        if self._in_hand >= IN_HAND:
            self._count(topic, Code.MESH_FULL)
            return
        self._in_hand += 1
        self._begin(self._take_fleeting(Frame(f"mqtt-{uuid.uuid4().hex}", topic, message.data)))

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a frame by MQTT was not taken", exc_info=error)

    async def _take(self, delivery: Delivery) -> None:
        came = origin(delivery.ack)
        topic = delivery.subject.removeprefix(f"$MQTT.msgs.{_SUBJECT}")
        frame = Frame(f"mqtt-{came.stored_ns}-{came.sequence}", topic, delivery.body)
        try:
            await self._publish(frame)
        except Refused as error:
            if await self._passes(error, frame):
                await return_later(self._context.connection, delivery.ack, AGAIN)
                return
            await self._bury(frame, error)
        except Reject as error:
            await self._bury(frame, error)
        finally:
            self._held.drop(delivery.ack)
            self._puller.done()
        await acknowledge(self._context.connection, delivery.ack)

    async def _take_fleeting(self, frame: Frame) -> None:
        try:
            await self._publish(frame)
        except (Refused, Reject) as error:
            self._count(frame.topic, error.code)
        finally:
            self._in_hand -= 1

    async def _publish(self, frame: Frame) -> None:
        """Store the frame in EVENTS.

        Raises
        ------
        Refused
            As `Publisher.publish` does.
        Reject
            (invalid_name) if the topic is not made as frames' are.
        """
        model, source = _names(frame.topic)
        event = Event(id=frame.id, source=source, model=model, image=frame.body)
        await self._publisher.publish(
            subjects.event(model, source), frame.body, headers=once(event)
        )

    async def _passes(self, error: Refused, frame: Frame) -> bool:
        """Say whether the frame may be taken a little later."""
        if error.code is not Code.UNKNOWN_MODEL:
            return error.code is not Code.PAYLOAD_TOO_LARGE
        # Of a model that was pushed this moment EVENTS may not have heard.
        try:
            await self._context.catalog.registry.get(_names(frame.topic)[0])
        except Refused as refused:
            return refused.code is not Code.UNKNOWN_MODEL
        return True

    async def _bury(self, frame: Frame, error: Refused | Reject) -> None:
        model, _, source = frame.topic.partition(".")
        known = model if is_token(model) else "_"
        marks = {
            "Vm-Id": frame.id,
            "Vm-Source": source if is_token(source) else "_",
            "Vm-Error-Code": error.code,
            "Vm-Error-Message": error.message,
            "Vm-Time": datetime.now(UTC).isoformat(),
        }
        subject = subjects.dead(_STAGE, known)
        try:
            await self._publisher.publish(subject, frame.body, headers=marks)
        except Refused as refused:
            if refused.code is not Code.PAYLOAD_TOO_LARGE:
                raise
            await self._publisher.publish(subject, b"", headers=marks)
        self._count(frame.topic, error.code)

    def _count(self, topic: str, code: Code) -> None:
        """Count a frame that became no event; models that are not there count as one."""
        model = topic.partition(".")[0]
        known = model if self._context.catalog.find(model) is not None else ""
        self._context.metrics.model(known).done("error", code)


def _names(topic: str) -> tuple[str, str]:
    """Return model and source of a topic; raise `Reject` (invalid_name) if it has not just these.

    NATS writes a dot in a topic as two slashes.
    """
    model, _, source = topic.partition(".")
    for kind, name in (("model", model), ("source", source)):
        if not is_token(name):
            why = f"Frames go to vm/mqtt/<model>/<source>. {name_fault(kind, name)}"
            raise Reject(Code.INVALID_NAME, why)
    return model, source
