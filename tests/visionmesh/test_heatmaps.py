from __future__ import annotations

import base64
import hashlib
import json
import os
from datetime import UTC, datetime, timedelta

import pytest

from visionmesh.bus import Connection, api
from visionmesh.errors import Retry
from visionmesh.heatmaps import AGE, BUCKET, HeatmapStore


async def chunks(connection: Connection) -> int:
    """Return how many messages hold content: there is one besides for each name."""
    answer = await api.request(
        connection.client,
        f"STREAM.INFO.OBJ_{BUCKET}",
        {"subjects_filter": f"$O.{BUCKET}.C.>"},
    )
    return sum(answer["state"].get("subjects", {}).values())


@pytest.mark.parametrize("size", [0, 1000, 700_000])
async def test_what_is_stored_can_be_fetched(connection: Connection, size: int) -> None:
    store = HeatmapStore(connection.client)
    png = os.urandom(size)
    sha256 = await store.store(png)
    assert sha256 == hashlib.sha256(png).hexdigest()
    assert await HeatmapStore(connection.client).fetch(sha256) == png


async def test_the_same_is_stored_once_until_it_is_old(connection: Connection) -> None:
    store = HeatmapStore(connection.client)
    png = os.urandom(1000)
    sha256 = await store.store(png)
    before = await chunks(connection)
    await store.store(png)
    await HeatmapStore(connection.client).store(png)
    assert await chunks(connection) == before

    name = base64.urlsafe_b64encode(sha256.encode()).decode()
    subject = f"$O.{BUCKET}.M.{name}"
    stored = await api.stored_message(connection.client, f"OBJ_{BUCKET}", last_by_subj=subject)
    assert stored is not None
    facts = json.loads(stored.data)
    facts["mtime"] = (datetime.now(UTC) - AGE / 2 - timedelta(minutes=1)).isoformat()
    await connection.client.jetstream().publish(
        subject, json.dumps(facts).encode(), headers={"Nats-Rollup": "sub"}
    )
    await store.store(png)
    again = await api.stored_message(connection.client, f"OBJ_{BUCKET}", last_by_subj=subject)
    assert again is not None
    assert json.loads(again.data)["nuid"] != facts["nuid"]
    assert await store.fetch(sha256) == png


async def test_what_is_not_there_is_none(connection: Connection) -> None:
    store = HeatmapStore(connection.client)
    await store.store(b"another")
    assert await store.fetch("0" * 64) is None


async def test_what_lost_a_part_is_none(connection: Connection) -> None:
    store = HeatmapStore(connection.client)
    sha256 = await store.store(os.urandom(1000))
    await connection.client.jetstream().purge_stream(f"OBJ_{BUCKET}", subject=f"$O.{BUCKET}.C.>")
    assert await store.fetch(sha256) is None


async def test_the_bucket_forgets_after_a_day_and_the_oldest_first(connection: Connection) -> None:
    await HeatmapStore(connection.client).store(b"a heat-map")
    answer = await api.request(connection.client, f"STREAM.INFO.OBJ_{BUCKET}")
    assert answer["config"]["max_age"] == 24 * 3600 * 10**9
    assert answer["config"]["discard"] == "old"
    assert answer["config"]["max_bytes"] > 0


async def test_a_lost_bucket_costs_one_attempt(connection: Connection) -> None:
    store = HeatmapStore(connection.client)
    sha256 = await store.store(b"kept")
    await connection.client.jetstream().delete_stream(f"OBJ_{BUCKET}")
    with pytest.raises(Retry, match="could not be stored"):
        await store.store(b"kept")
    assert await store.store(b"kept") == sha256
    assert await store.fetch(sha256) == b"kept"


async def test_a_mesh_that_is_away_is_tried_again_later(nats_url: str) -> None:
    away = await Connection.open(nats_url, name="test")
    store = HeatmapStore(away.client)
    await store.store(b"first")
    await away.close()
    with pytest.raises(Retry) as caught:
        await store.store(b"second")
    assert caught.value.delay > timedelta(0)
