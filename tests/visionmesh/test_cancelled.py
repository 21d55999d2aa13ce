from __future__ import annotations

import pytest

from tests.polling import until
from visionmesh.bus import Connection
from visionmesh.cancelled import Cancelled, give_up


async def test_what_was_given_up_is_known_to_all_and_not_for_ever(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("visionmesh.cancelled.MOST", 3)
    cancelled, heard = Cancelled(connection=connection), list[str]()
    cancelled.on_cancel(heard.append)
    await cancelled.start()
    for number in range(5):
        await give_up(connection, f"inbox.{number}")

    async def all_heard() -> bool:
        return len(heard) == 5

    await until(all_heard)
    assert [f"inbox.{number}" in cancelled for number in range(5)] == [False] * 2 + [True] * 3
    assert None not in cancelled
    await cancelled.stop()
