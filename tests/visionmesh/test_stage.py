"""What a stage does with bundles, whatever its handler does."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from nats.aio.msg import Msg

from tests.polling import until
from tests.references import make_reference, make_result
from visionmesh import subjects
from visionmesh.bundle import Parcel, encode
from visionmesh.bus import Delivery, Puller, origin, return_later, topology
from visionmesh.context import Context, open_context
from visionmesh.contracts import Reference, Status
from visionmesh.errors import Code, Retry
from visionmesh.settings import MEBIBYTE, EventsSettings, PostprocessSettings, Settings
from visionmesh.settlement import AGAIN_HEADER, STATUS_HEADER
from visionmesh.stage import MAX_HOLDERS, Done, Ended, Item, Stage

BAD = "bad"
"""The id of an image that breaks the handler."""
_models = itertools.count()


class Worker:
    """A stage whose handler answers at once, and breaks on `BAD`; callers hear the answers."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.model = f"stage-{next(_models)}"
        self.stage = Stage(context=context, handler=self._handle)
        self.handled: list[list[str]] = []
        self.answers: dict[str, Msg] = {}
        self._inbox = context.connection.client.new_inbox()

    @property
    def lane(self) -> str:
        return subjects.output(self.model, subjects.ANY_LANE)

    async def listen(self) -> None:
        await self.stage.listen_lanes(subjects.OUTPUTS, f"vm.outputs.{self.model}", name=self.model)

    async def send(self, *ids: str, **changes: object) -> None:
        """Put a bundle of callers' images into the stream."""
        images = [
            make_reference(id=id, model=self.model, reply=f"{self._inbox}.{id}", **changes)
            for id in ids
        ]
        await self.context.publisher.publish(
            self.lane, encode([Parcel(one, b"") for one in images])
        )

    async def answered(self, count: int) -> dict[str, str | None]:
        """Return what each caller is told, once so many were told something; `None`: a result."""

        async def all_there() -> bool:
            return len(self.answers) >= count

        await until(all_there)
        heads = {id: message.headers or {} for id, message in self.answers.items()}
        return {id: head.get(AGAIN_HEADER, head.get(STATUS_HEADER)) for id, head in heads.items()}

    async def start(self) -> None:
        await self.context.connection.client.subscribe(f"{self._inbox}.*", cb=self._hear)
        await self.stage.start()

    async def _hear(self, message: Msg) -> None:
        self.answers[message.subject.rpartition(".")[2]] = message

    async def _handle(self, items: Sequence[Item]) -> AsyncIterator[Sequence[Ended]]:
        references = [item.reference for item in items]
        self.handled.append([reference.id for reference in references])
        if BAD in self.handled[-1]:
            raise ValueError(BAD)
        yield [(item, Done(make_result(item.reference))) for item in items]


@pytest.fixture
async def worker(nats_url: str, tmp_path: Path) -> AsyncIterator[Worker]:
    settings = Settings(
        nats_url=nats_url, state_dir=tmp_path, shm_dir=tmp_path,
        events=EventsSettings(hop_ack_wait=timedelta(seconds=1)),
        postprocess=PostprocessSettings(arena_bytes=MEBIBYTE),
    )  # fmt: skip
    async with open_context(settings, stage="postprocess", stream=subjects.OUTPUTS) as context:
        worker = Worker(context)
        await worker.start()
        yield worker
        await worker.stage.stop()


async def test_an_image_that_breaks_the_handler_takes_no_other_along(worker: Worker) -> None:
    await worker.listen()
    await worker.send("one", BAD, "two")
    assert await worker.answered(3) == {"one": None, "two": None, BAD: Code.INTERNAL}
    assert worker.handled == [["one", BAD, "two"], ["one"], [BAD], ["two"]]


async def test_what_is_too_late_is_not_handled(worker: Worker) -> None:
    await worker.listen()
    await worker.send("late", deadline_ns=time.time_ns() - 1)
    assert await worker.answered(1) == {"late": Status.EXPIRED}
    assert worker.handled == []


async def test_a_bundle_that_killed_its_holders_is_sent_back(worker: Worker) -> None:
    client, attempts = worker.context.connection.client, asyncio.Queue[int]()
    durable = f"{worker.model}_{subjects.ANY_LANE}"
    config = topology.hop_consumer(durable, worker.lane, settings=worker.context.settings.events)

    def die(delivery: Delivery) -> None:
        attempts.put_nowait(origin(delivery.ack).attempt)
        asyncio.get_running_loop().create_task(
            return_later(worker.context.connection, delivery.ack)
        ).add_done_callback(lambda _: holders.done())

    holders = Puller(
        connection=worker.context.connection,
        stream=subjects.OUTPUTS,
        declare=lambda: topology.ensure_consumer(client, subjects.OUTPUTS, config),
        capacity=1,
        receive=die,
    )
    await holders.start()
    await worker.send("one", "two")
    while await attempts.get() < MAX_HOLDERS:
        pass
    await holders.stop()
    await worker.listen()
    assert await worker.answered(2) == {"one": Code.INTERNAL, "two": Code.INTERNAL}
    assert worker.handled == []


async def test_the_depth_of_each_lane_is_told(worker: Worker) -> None:
    await worker.listen()
    lines = worker.context.metrics.exposition()[0].decode().splitlines()
    depths = {line for line in lines if line.startswith("visionmesh_queue_depth{")}
    model, stage = f'model="{worker.model}"', 'stage="postprocess"'
    lanes = (worker.context.settings.node, subjects.ANY_LANE)
    assert depths == {
        f'visionmesh_queue_depth{{lane="{one}",{model},{stage}}} 0.0' for one in lanes
    }


async def test_a_bundle_that_cannot_be_settled_comes_again(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settlement = worker.context.settlement
    fail: Callable[[Reference, BaseException], object] = settlement.fail

    async def fail_once(*_: object) -> None:
        monkeypatch.setattr(settlement, "fail", fail)
        raise Retry("The server did not answer in time.")

    monkeypatch.setattr(settlement, "fail", fail_once)
    await worker.listen()
    await worker.send(BAD)
    assert await worker.answered(1) == {BAD: Code.INTERNAL}
    assert worker.handled == [[BAD], [BAD]]
    assert f"{worker.lane}: not settled, it comes again" in caplog.text
    await worker.stage.stop()
    assert worker.stage.in_hand == 0
