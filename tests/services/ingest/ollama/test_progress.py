"""Streams that tell how work goes on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.responses import StreamingResponse

from services.ingest.ollama.progress import Work, respond
from visionmesh.errors import Code, Refused


async def lines(work: Work) -> list[dict[str, Any]]:
    response = await respond((("working", work),), stream=True)
    assert isinstance(response, StreamingResponse)
    parts = response.body_iterator
    return [json.loads(part) async for part in parts if isinstance(part, bytes)]


async def well() -> None:
    pass


async def refused() -> None:
    raise Refused(Code.MESH_FULL, "There is no room.")


async def broken() -> None:
    raise ZeroDivisionError("somebody else's image")


async def test_a_stream_ends_with_how_it_went(caplog: pytest.LogCaptureFixture) -> None:
    begun = {"status": "working"}
    assert await lines(well) == [begun, {"status": "success"}]
    assert await lines(refused) == [
        begun,
        {"error": str(Refused(Code.MESH_FULL, "There is no room."))},
    ]
    assert caplog.records == []
    first, last = await lines(broken)
    assert first == begun
    assert last["error"].startswith("Something is wrong with the mesh")
    assert "ZeroDivisionError" in caplog.text
