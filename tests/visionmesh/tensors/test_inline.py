"""Payloads that travel in the message."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from visionmesh.contracts import InlineLocation
from visionmesh.errors import Code, Miss, Reject
from visionmesh.tensors import InlineArena, Reader

NOW = timedelta(0)


async def test_a_payload_arrives_as_it_was_written() -> None:
    with await InlineArena(max_bytes=10).acquire(6, timeout=NOW) as slot:
        slot.view[:] = b"inline"
        location = slot.commit()
    reading = Reader(directory=Path("/dev/shm")).read(location, slot.view)
    assert bytes(reading.view) == b"inline"
    assert reading.view.readonly
    reading.check()
    reading.release()


async def test_what_no_message_can_carry_is_rejected() -> None:
    with pytest.raises(Reject) as caught:
        await InlineArena(max_bytes=10).acquire(11, timeout=NOW)
    assert caught.value.code is Code.PAYLOAD_TOO_LARGE


@pytest.mark.parametrize(("offset", "length"), [(0, 7), (6, 1), (-1, 2), (3, -1)])
def test_a_location_outside_the_message_misses(offset: int, length: int) -> None:
    location = InlineLocation(offset=offset, length=length)
    with pytest.raises(Miss):
        Reader(directory=Path("/dev/shm")).read(location, memoryview(b"inline"))
