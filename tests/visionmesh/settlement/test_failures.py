"""How images end that fail, and which are tried again, told by a real server."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.references import make_reference
from tests.visionmesh.settlement.conftest import BODY, BROKEN, HEADERS, MAX_ATTEMPTS, MODEL, Event
from visionmesh.bus import Connection
from visionmesh.contracts import Result, Status
from visionmesh.errors import Code, Expired, Fatal, Miss, Retry
from visionmesh.settlement import AGAIN_HEADER, MAX_WAITS, Settlement


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
    assert (message.data, message.headers) == (b"No room.", {AGAIN_HEADER: Code.MESH_FULL})


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
