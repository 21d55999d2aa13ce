"""Keys in a real NATS server: added, listed, revoked, and seen by every worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.polling import until
from visionmesh.bus import Connection
from visionmesh.embedded import NatsServer
from visionmesh.errors import Code, Fatal, Refused
from visionmesh.keys import issue
from visionmesh.keys.ring import KeyRing
from visionmesh.keys.store import KeyStore


def fail(error: Fatal) -> None:
    raise error


@pytest.fixture
async def store(connection: Connection) -> KeyStore:
    return KeyStore(connection.client)


@pytest.fixture
async def ring(store: KeyStore) -> AsyncIterator[KeyRing]:
    ring = KeyRing(store, fail=fail)
    await ring.start()
    yield ring
    await ring.stop()


async def test_a_key_is_kept_until_it_is_revoked(store: KeyStore) -> None:
    _, record = issue(name="kept")
    await store.add(record)
    assert record in await store.list()
    revoked = await store.revoke(record.id)
    assert revoked.fault() == "was revoked"
    assert revoked in await store.list()
    assert await store.revoke(record.id) == revoked


async def test_a_name_revokes_the_only_key_that_has_it(store: KeyStore) -> None:
    records = [issue(name="twins")[1] for _ in range(2)]
    for record in records:
        await store.add(record)
    with pytest.raises(Refused) as refused:
        await store.revoke("twins")
    assert refused.value.code is Code.INVALID_NAME
    await store.revoke(records[0].id)
    assert (await store.revoke("twins")).id == records[1].id
    with pytest.raises(Refused) as refused:
        await store.revoke("twins")
    assert refused.value.code is Code.NOT_FOUND


async def test_workers_hear_of_every_key_and_of_its_end(store: KeyStore, ring: KeyRing) -> None:
    key, record = issue(name="heard")
    await store.add(record)

    async def known() -> bool:
        return ring.find(key) == record

    await until(known)
    assert ring.find(key[:-4] + "AAAA") is None
    await store.revoke(record.id)

    async def revoked() -> bool:
        return ring.now(record).revoked is not None

    await until(revoked)
    assert ring.find(key) is not None, "it is known, and known to be revoked"


async def test_keys_stay_valid_while_the_server_is_away(tmp_path: Path) -> None:
    async with NatsServer(store=tmp_path) as server:
        connection = await Connection.open(server.url, name="test")
        store = KeyStore(connection.client)
        key, record = issue(name="stays")
        await store.add(record)
        ring = KeyRing(store, fail=fail)
        await ring.start()
        assert ring.complete
        await server.stop()
        assert ring.find(key) == record
        await server.start()
        another, later = issue(name="later")

        async def added() -> bool:
            try:
                await store.add(later)
            except Refused:
                return False
            return True

        await until(added)

        async def known() -> bool:
            await asyncio.sleep(0)
            return ring.find(another) == later

        await until(known)
        await ring.stop()
        await connection.close()
