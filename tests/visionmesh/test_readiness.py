"""A start waits for a machine that is at work on loading."""

from __future__ import annotations

from unittest.mock import AsyncMock, create_autospec

import pytest
from nats.aio.client import Client

from visionmesh import readiness
from visionmesh.errors import Retry
from visionmesh.readiness import until_ready


async def test_a_server_that_is_slow_to_answer_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    list_nodes = AsyncMock(side_effect=[Retry("busy"), []])
    monkeypatch.setattr(readiness, "list_nodes", list_nodes)
    await until_ready(create_autospec(Client), [], node="node", models=frozenset())
    assert list_nodes.await_count == 2
