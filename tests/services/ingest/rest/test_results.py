"""Places of those who wait for results."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.ingest.rest.results import WAITING, Readers
from visionmesh import subjects
from visionmesh.bus import Connection
from visionmesh.errors import Code, Refused


async def test_who_cannot_wait_leaves_no_place_taken(nats_url: str) -> None:
    closed = await Connection.open(nats_url, name="closed")
    await closed.close()
    readers = Readers(connection=closed)
    for _ in range(WAITING + 1):
        with pytest.raises(Refused) as refused:
            await readers.one(subjects.result("cats", "gate", "1"), timedelta(seconds=1))
        assert refused.value.code is Code.MESH_UNREACHABLE
