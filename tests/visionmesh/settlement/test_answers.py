"""How images end that are answered, told by the streams of a real server."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from tests.references import make_reference, make_result, new_traceparent
from tests.visionmesh.settlement.conftest import BODY, MODEL, Event
from visionmesh import subjects
from visionmesh.bus import Connection, origin
from visionmesh.bus.api import stored_message
from visionmesh.contracts import ClassScore, Result, Status
from visionmesh.errors import Code
from visionmesh.ordered import EVENT_HEADER
from visionmesh.settlement import STATUS_HEADER, Settlement
from visionmesh.telemetry.kept import read_trace
from visionmesh.telemetry.tracing import Tracing


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
