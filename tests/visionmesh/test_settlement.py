"""How images end, told by the streams of a real server."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from nats.aio.msg import Msg
from prometheus_client import CollectorRegistry

from tests.polling import until
from tests.references import make_reference, make_result, new_traceparent
from visionmesh import subjects
from visionmesh.bus import Connection, Delivery, Publisher, Puller, origin, topology
from visionmesh.bus.api import stored_message
from visionmesh.contracts import ClassScore, Reference, Result, Status
from visionmesh.errors import Code, Expired, Fatal, Miss, Reject, Retry
from visionmesh.ordered import EVENT_HEADER
from visionmesh.settings import EventsSettings, TracingSettings
from visionmesh.settlement import AGAIN_HEADER, MAX_WAITS, STATUS_HEADER, Settlement
from visionmesh.telemetry.kept import read_trace
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


async def test_a_result_is_stored_before_its_event_is_acknowledged(
    event: Event, settlement: Settlement
) -> None:
    reference = await event.reference()
    result = make_result(reference, classes=(ClassScore(label="cat", score=0.5),))
    await settlement.answer([(reference, result, None)])
    assert await event.ended() == ["results", "+ACK"]
    assert await event.result() == result
    (told, _) = event.heard
    assert told.headers["ce-type"] == "io.visionmesh.result.ok"
    assert told.headers["ce-id"] == reference.id
    assert reference.ack is not None
    assert told.headers[EVENT_HEADER] == str(origin(reference.ack).sequence)


async def test_the_first_of_two_results_stays_and_the_event_is_acknowledged_both_times(
    event: Event, settlement: Settlement
) -> None:
    reference = await event.reference()
    first = make_result(reference)
    await settlement.answer([(reference, first, None)])
    await event.ended()
    event.heard.clear()
    await settlement.answer([(reference, make_result(reference, version=2), None)])
    assert "+ACK" in await event.ended()
    assert await event.result() == first


async def test_a_result_that_is_too_large_is_an_error_of_its_image_alone(
    event: Event, settlement: Settlement, connection: Connection
) -> None:
    vast = (ClassScore(label="x" * connection.max_payload, score=0.5),)
    reference, neighbour = await event.reference(), make_reference(model=MODEL)
    results = [(reference, make_result(reference, classes=vast), None)]
    await settlement.answer([*results, (neighbour, make_result(neighbour), None)])
    assert await event.ended() == ["dead", "results", "+ACK", "results"]
    error = (await event.result()).error
    assert error is not None
    assert error.code is Code.PAYLOAD_TOO_LARGE
    assert event.buried.data == BODY


async def test_a_caller_is_told_of_a_result_that_is_too_large(
    connection: Connection, settlement: Settlement
) -> None:
    inbox = connection.client.new_inbox()
    replies = await connection.client.subscribe(inbox)
    reference = make_reference(model=MODEL, reply=inbox)
    vast = (ClassScore(label="x" * connection.max_payload, score=0.5),)
    await settlement.answer([(reference, make_result(reference, classes=vast), None)])
    message = await replies.next_msg(timeout=10)
    assert message.headers == {STATUS_HEADER: Status.ERROR}
    assert Code.PAYLOAD_TOO_LARGE in message.data.decode()


async def test_one_image_has_one_root_span(
    event: Event, settlement: Settlement, tracing: Tracing, tmp_path: Path
) -> None:
    reference = await event.reference(traceparent=new_traceparent())
    with closing(tracing):
        for _ in range(2):
            await settlement.answer([(reference, make_result(reference), None)])
    (root,) = read_trace(tmp_path, reference.id)
    assert root.span.trace_id in (reference.traceparent or "")
    assert root.span.attributes["visionmesh.status"] == "ok"


async def test_a_span_of_the_producer_is_not_recorded_as_the_image_s(
    event: Event, settlement: Settlement, tracing: Tracing, tmp_path: Path
) -> None:
    producer = new_traceparent()
    span = producer.split("-")[2]
    reference = await event.reference(traceparent=producer, parent_span=span)
    with closing(tracing):
        await settlement.answer([(reference, make_result(reference), None)])
    await event.ended()
    assert event.heard[0].headers["traceparent"] == producer
    assert read_trace(tmp_path, reference.id) == []


async def test_a_caller_gets_the_result_and_nothing_is_stored(
    connection: Connection, settlement: Settlement
) -> None:
    inbox = connection.client.new_inbox()
    replies = await connection.client.subscribe(inbox)
    reference = make_reference(model=MODEL, reply=inbox)
    result = make_result(reference)
    await settlement.answer([(reference, result, None)])
    message = await replies.next_msg(timeout=10)
    assert Result.model_validate_json(message.data) == result
    subject = subjects.result(MODEL, reference.source, reference.id)
    stored = await stored_message(connection.client, subjects.RESULTS, last_by_subj=subject)
    assert stored is None


async def test_a_refused_event_is_on_dead_before_its_result(
    event: Event, settlement: Settlement
) -> None:
    reference = await event.reference()
    assert await settlement.fail(reference, BROKEN) == ("error", Code.BROKEN_IMAGE)
    assert await event.ended() == ["dead", "results", "+ACK"]
    result = await event.result()
    assert (result.status, result.error and result.error.code) == (
        Status.ERROR,
        Code.BROKEN_IMAGE,
    )
    buried = event.buried
    assert buried.subject == "vm.dead.preprocess.settlement"
    assert buried.data == BODY
    assert HEADERS.items() <= buried.headers.items()
    assert buried.headers["Vm-Id"] == reference.id
    assert buried.headers["Vm-Error-Code"] == Code.BROKEN_IMAGE
    assert buried.headers["Vm-Error-Message"] == BROKEN.message


async def test_the_original_that_a_stage_has_is_what_is_buried(
    event: Event, settlement: Settlement
) -> None:
    reference = await event.reference()
    original = ({"ce-id": "y", "Nats-Msg-Id": "m"}, b"as delivered")
    await settlement.refuse(reference, BROKEN, event=original)
    await event.ended()
    assert event.buried.data == b"as delivered"
    assert event.buried.headers["ce-id"] == "y"
    assert "Nats-Msg-Id" not in event.buried.headers


async def test_an_event_ends_also_with_headers_that_cannot_be_sent_again(
    event: Event, settlement: Settlement
) -> None:
    reference = await event.reference()
    original = ({"ce-id": "y", "a/b": "1", 'say "hi"': "2", "": "3"}, b"")
    await settlement.refuse(reference, BROKEN, event=original)
    assert await event.ended() == ["dead", "results", "+ACK"]
    assert event.buried.headers["ce-id"] == "y"
    assert "a/b" not in event.buried.headers


async def test_an_expired_event_is_answered_as_expired(
    event: Event, settlement: Settlement
) -> None:
    reference = await event.reference()
    assert await settlement.fail(reference, Expired()) == ("expired", Code.DEADLINE_PASSED)
    assert await event.ended() == ["dead", "results", "+ACK"]
    assert (await event.result()).status is Status.EXPIRED


async def test_an_image_is_tried_again_until_its_attempts_are_exhausted(
    event: Event, settlement: Settlement
) -> None:
    miss = Miss("The slot was reused.")
    for attempt in range(1, MAX_ATTEMPTS):
        reference = await event.reference()
        assert reference.attempt == attempt
        assert await settlement.fail(reference, miss) == ("retry", Code.INTERNAL)
    last = await event.reference()
    assert last.attempt == MAX_ATTEMPTS
    assert await settlement.fail(last, miss) == ("error", Code.TOO_MANY_ATTEMPTS)
    naks = ["-NAK"] * (MAX_ATTEMPTS - 1)
    assert await event.ended() == [*naks, "dead", "results", "+ACK"]
    result = await event.result()
    assert result.error is not None
    assert result.error.code is Code.TOO_MANY_ATTEMPTS
    assert "The slot was reused." in result.error.message


@pytest.mark.parametrize("code", [Code.MODEL_NOT_READY, Code.MESH_UNREACHABLE, Code.MESH_FULL])
async def test_an_image_waits_for_longer_than_it_may_fail(
    event: Event, settlement: Settlement, code: Code
) -> None:
    wait = Retry("Not yet.", code=code)
    for attempt in range(1, MAX_ATTEMPTS + 2):
        reference = await event.reference()
        assert reference.attempt == attempt
        assert await settlement.fail(reference, wait) == ("retry", code)
    last = await event.reference(attempt=MAX_WAITS)
    assert await settlement.fail(last, wait) == ("error", Code.TOO_MANY_ATTEMPTS)
    assert await event.ended() == [*["-NAK"] * (MAX_ATTEMPTS + 1), "dead", "results", "+ACK"]


async def test_an_unforeseen_error_is_a_retry_with_a_delay(
    event: Event, settlement: Settlement, caplog: pytest.LogCaptureFixture
) -> None:
    reference = await event.reference()
    began = time.monotonic()
    assert (await settlement.fail(reference, KeyError("oops")))[0] == "retry"
    assert "oops" in caplog.text
    again = await event.reference()
    assert (again.attempt, again.ack == reference.ack) == (2, False)
    assert time.monotonic() - began > 0.9


@pytest.mark.parametrize("error", [Fatal(Code.INTERNAL, "broken"), asyncio.CancelledError()])
async def test_what_must_stop_the_worker_is_raised(
    settlement: Settlement, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        await settlement.fail(make_reference(), error)


@pytest.mark.parametrize("attempt", [1, MAX_ATTEMPTS])
async def test_a_caller_is_asked_to_send_the_image_again(
    connection: Connection, settlement: Settlement, attempt: int
) -> None:
    inbox = connection.client.new_inbox()
    replies = await connection.client.subscribe(inbox)
    reference = make_reference(model=MODEL, reply=inbox, attempt=attempt)
    await settlement.again(reference, Retry("No room.", code=Code.MESH_FULL))
    message = await replies.next_msg(timeout=10)
    assert (message.data, message.headers) == (b"", {AGAIN_HEADER: Code.MESH_FULL})


async def test_a_caller_s_refused_image_is_not_buried(
    connection: Connection, settlement: Settlement, event: Event
) -> None:
    inbox = connection.client.new_inbox()
    replies = await connection.client.subscribe(inbox)
    await settlement.refuse(make_reference(model=MODEL, reply=inbox), BROKEN)
    message = await replies.next_msg(timeout=10)
    result = Result.model_validate_json(message.data)
    assert result.error is not None
    assert result.error.code is Code.BROKEN_IMAGE
    assert event.heard == []
