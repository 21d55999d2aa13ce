"""An event in a real EVENTS, and what is heard of its end."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats.aio.msg import Msg
from prometheus_client import CollectorRegistry

from tests.polling import until
from tests.references import make_reference
from visionmesh import subjects
from visionmesh.bus import Connection, Delivery, Publisher, Puller, origin, topology
from visionmesh.bus.api import stored_message
from visionmesh.contracts import Reference, Result
from visionmesh.errors import Code, Reject
from visionmesh.settings import EventsSettings, TracingSettings
from visionmesh.settlement import Settlement
from visionmesh.telemetry.metrics import Metrics
from visionmesh.telemetry.tracing import Tracing

MODEL = "settlement"
MAX_ATTEMPTS = 3
BODY = b"an image"
HEADERS = {"ce-id": "x", "Vm-Params": '{"top_k": 1}'}
BROKEN = Reject(Code.BROKEN_IMAGE, "The file is cut off.")
_sources = itertools.count()


class Event:
    """An event in EVENTS, how it was delivered, and what is heard of its end."""

    def __init__(self, connection: Connection) -> None:
        self.source = f"source-{next(_sources)}"
        self.deliveries: asyncio.Queue[Delivery] = asyncio.Queue()
        self.heard: list[Msg] = []
        self._client = connection.client

    async def hear(self, message: Msg) -> None:
        self.heard.append(message)

    async def reference(self, **changes: object) -> Reference:
        """Return the reference of the next delivery."""
        delivery = await asyncio.wait_for(self.deliveries.get(), 10)
        attempt = origin(delivery.ack).attempt
        fields = {"model": MODEL, "source": self.source, "id": self.source, "attempt": attempt}
        return make_reference(**(fields | {"ack": delivery.ack} | changes))

    async def ended(self) -> list[str]:
        """Return what was heard, in its order, once the event is acknowledged."""

        async def acknowledged() -> bool:
            return any(message.data == b"+ACK" for message in self.heard)

        await until(acknowledged)
        return [_kind(message) for message in self.heard]

    async def result(self) -> Result:
        """Return the stored result."""
        subject = subjects.result(MODEL, self.source, self.source)
        stored = await stored_message(self._client, subjects.RESULTS, last_by_subj=subject)
        assert stored is not None
        return Result.model_validate_json(stored.data)

    @property
    def buried(self) -> Msg:
        """The copy on DEAD."""
        (message,) = [each for each in self.heard if _kind(each) == "dead"]
        return message


def _kind(message: Msg) -> str:
    if message.subject.startswith("$JS.ACK"):
        return str(message.data.decode())
    return str(message.subject.split(".")[1])


@pytest.fixture
async def event(connection: Connection, publisher: Publisher) -> AsyncIterator[Event]:
    settings = EventsSettings()
    client = connection.client
    await topology.ensure_stream(client, topology.events_config(settings, [MODEL]))
    config = topology.events_consumer(MODEL, window=8, settings=settings)
    event = Event(connection)
    puller = Puller(
        connection=connection,
        stream=subjects.EVENTS,
        declare=lambda: topology.ensure_consumer(client, subjects.EVENTS, config),
        capacity=8,
        receive=event.deliveries.put_nowait,
    )
    heard = (f"vm.dead.*.{MODEL}", f"vm.results.{MODEL}.>", "$JS.ACK.EVENTS.>")
    subscriptions = [await client.subscribe(subject, cb=event.hear) for subject in heard]
    await puller.start()
    await publisher.publish(subjects.event(MODEL, event.source), BODY, headers=HEADERS)
    yield event
    await puller.stop()
    for subscription in subscriptions:
        await subscription.unsubscribe()
    await client.jetstream().delete_consumer(subjects.EVENTS, config["durable_name"])
    await client.jetstream().purge_stream(subjects.EVENTS)


@pytest.fixture
def tracing(tmp_path: Path) -> Tracing:
    return Tracing(
        settings=TracingSettings(), service="t", node="n", state_dir=tmp_path, environment={}
    )


@pytest.fixture
def settlement(connection: Connection, publisher: Publisher, tracing: Tracing) -> Settlement:
    return Settlement(
        connection=connection,
        publisher=publisher,
        tracing=tracing,
        metrics=Metrics(stage="test", registry=CollectorRegistry()),
        stage="preprocess",
        max_attempts=MAX_ATTEMPTS,
    )
