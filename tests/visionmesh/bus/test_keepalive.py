"""What a worker has in hand is not delivered to another one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from nats.aio.subscription import Subscription
from nats.js.api import ConsumerConfig, StorageType

from visionmesh.bus import Connection, KeepAlive

ACK_WAIT = timedelta(milliseconds=450)


@pytest.fixture
async def kept(connection: Connection) -> AsyncIterator[KeepAlive]:
    kept = KeepAlive(connection=connection, ack_wait=ACK_WAIT)
    kept.start()
    yield kept
    await kept.stop()


@pytest.fixture
async def said(connection: Connection) -> AsyncIterator[Subscription]:
    """What is said of the deliveries of a stream that does not exist."""
    subscription = await connection.client.subscribe("$JS.ACK.NOWHERE.*")
    yield subscription
    await subscription.unsubscribe()


async def test_a_delivery_comes_again_only_once_it_is_dropped(
    connection: Connection, kept: KeepAlive
) -> None:
    js = connection.client.jetstream()
    await js.add_stream(name="KEPT", subjects=["kept"], storage=StorageType.MEMORY)
    try:
        consumer = await js.pull_subscribe(
            "kept", "worker", config=ConsumerConfig(ack_wait=ACK_WAIT.total_seconds())
        )
        await js.publish("kept", b"")
        (message,) = await consumer.fetch(1)
        said = await connection.client.subscribe(message.reply)
        kept.take(message.reply)
        for _ in range(9):  # three times as long as the server waits
            assert (await said.next_msg(timeout=5)).data == b"+WPI"
        info = await consumer.consumer_info()
        assert (info.num_ack_pending, info.num_redelivered) == (1, 0)
        kept.drop(message.reply)
        (again,) = await consumer.fetch(1, timeout=5)
        assert again.metadata.num_delivered == 2
    finally:
        await js.delete_stream("KEPT")


async def test_what_is_old_is_told_of_first(kept: KeepAlive, said: Subscription) -> None:
    kept.take("$JS.ACK.NOWHERE.fresh")
    kept.take("$JS.ACK.NOWHERE.old", age=timedelta(hours=1))
    subjects = [(await said.next_msg(timeout=5)).subject for _ in range(2)]
    assert subjects == ["$JS.ACK.NOWHERE.old", "$JS.ACK.NOWHERE.fresh"]


async def test_what_nobody_delivers_again_is_counted_only(
    kept: KeepAlive, connection: Connection, said: Subscription
) -> None:
    heard = await connection.client.subscribe("_INBOX.caller")
    kept.take("_INBOX.caller", age=timedelta(hours=1))
    kept.take("$JS.ACK.NOWHERE.event", age=timedelta(hours=1))
    assert len(kept) == 2
    await said.next_msg(timeout=5)
    await connection.client.flush()
    assert heard.pending_msgs == 0
    kept.drop("_INBOX.caller")
    kept.drop("_INBOX.caller")
    assert len(kept) == 1
