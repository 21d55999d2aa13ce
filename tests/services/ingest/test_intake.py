"""Which models' events an ingest worker takes, and when it takes no more."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg

from services.ingest.admission import Admission
from services.ingest.intake import Intake
from tests.mesh.conftest import write_classifier
from tests.polling import until
from visionmesh import subjects
from visionmesh.bundle import decode
from visionmesh.bus import Publisher, topology
from visionmesh.bus.api import ApiError, request, stored_message
from visionmesh.context import Context, open_context
from visionmesh.contracts import Result, Status
from visionmesh.errors import Code, Refused
from visionmesh.models.folder import load_folder
from visionmesh.nodes import Nodes
from visionmesh.settings import MEBIBYTE, EventsSettings, IngestSettings, Settings

NAME = "taken-in"


@pytest.fixture
async def context(nats_url: str, tmp_path: Path) -> AsyncIterator[Context]:
    settings = Settings(
        nats_url=nats_url, state_dir=tmp_path, shm_dir=tmp_path,
        ingest=IngestSettings(arena_bytes=MEBIBYTE),
        events=EventsSettings(ack_wait=timedelta(seconds=1)),
    )  # fmt: skip
    async with open_context(settings, stage="ingest", stream=subjects.EVENTS) as context:
        yield context


async def consumer(context: Context) -> dict[str, Any] | None:
    """Return what the server says of the model's consumer, if there is one."""
    subject = f"CONSUMER.INFO.{subjects.EVENTS}.ingest_{NAME}"
    try:
        return await request(context.connection.client, subject)
    except ApiError:
        return None


async def test_a_model_that_is_pushed_while_it_starts_is_pulled_once(
    context: Context, publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog, folder = context.catalog, load_folder(write_classifier(tmp_path, name=NAME))
    replay = catalog.start

    async def replay_and_push() -> None:
        await replay()
        await catalog.registry.push(folder)

    monkeypatch.setattr(catalog, "start", replay_and_push)
    intake = Intake(context=context, admission=Admission(context=context))
    await intake.start()
    await until(lambda: consumer(context))
    await intake.stop()
    await context.connection.client.flush()  # else the server may still give it the event
    await publisher.publish(subjects.event(NAME, "cam"), b"image")
    left = await consumer(context)
    assert left is not None
    assert (left["num_pending"], left["num_ack_pending"]) == (1, 0)
    await catalog.registry.remove(NAME)
    await request(context.connection.client, f"CONSUMER.DELETE.{subjects.EVENTS}.ingest_{NAME}")
    await request(context.connection.client, f"STREAM.PURGE.{subjects.EVENTS}")


async def test_a_removed_model_s_consumer_goes_with_its_last_event(
    context: Context, publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.ingest.intake.RETIRE", timedelta(milliseconds=100))
    nc, events = context.connection.client, context.settings.events
    await topology.ensure_stream(nc, topology.events_config(events, [NAME, "x"]))
    config = topology.events_consumer(NAME, window=1, settings=events)
    await topology.ensure_consumer(nc, subjects.EVENTS, config)
    strange = config | {"durable_name": "strange", "filter_subject": "vm.events.x.*"}
    await topology.ensure_consumer(nc, subjects.EVENTS, strange)
    await publisher.publish(subjects.event(NAME, "cam"), b"image", headers={"ce-id": "left"})
    intake = Intake(context=context, admission=Admission(context=context))
    await intake.start()

    async def gone() -> bool:
        return await consumer(context) is None

    await until(gone)
    subject = subjects.result(NAME, "cam", "left")
    stored = await stored_message(nc, subjects.RESULTS, last_by_subj=subject)
    assert stored is not None
    assert Code.UNKNOWN_MODEL in stored.data.decode()
    names = await request(nc, f"CONSUMER.NAMES.{subjects.EVENTS}")
    assert "strange" in names["consumers"]
    assert f"ingest_{NAME}" not in names["consumers"]
    await context.catalog.registry.push(load_folder(write_classifier(tmp_path, name=NAME)))
    await until(lambda: consumer(context))
    await context.catalog.registry.remove(NAME)
    await until(gone)
    await intake.stop()
    await request(nc, f"CONSUMER.DELETE.{subjects.EVENTS}.strange")


EVENTS = 8
ROUNDS = 7
"""Of keep-alives, three for each ``ack_wait``."""


class Heard:
    """What is heard of the events of the model."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        """The ids of images that were sent to preprocess."""
        self.said: dict[bytes, Counter[str]] = {b"+WPI": Counter(), b"-NAK": Counter()}
        """How often each was said of each delivery."""

    async def image(self, message: Msg) -> None:
        references, _ = decode(message.data)
        self.sent += [reference.id for reference in references]

    async def ack(self, message: Msg) -> None:
        self.said[message.data][message.subject] += 1

    async def kept(self) -> bool:
        """Say whether all events were kept for more than twice ``ack_wait``."""
        rounds = self.said[b"+WPI"].values()
        return len(rounds) == EVENTS and min(rounds) >= ROUNDS

    async def returned(self) -> bool:
        return len(self.said[b"-NAK"]) == EVENTS


@pytest.fixture
async def unstaffed(
    context: Context, publisher: Publisher, tmp_path: Path
) -> AsyncIterator[tuple[Intake, Heard]]:
    """An intake with events for a model that no infer worker has."""
    nc, heard = context.connection.client, Heard()
    await context.catalog.registry.push(load_folder(write_classifier(tmp_path, name=NAME)))
    await context.nodes.start(load=lambda: 0.0)
    await nc.subscribe(f"vm.images.{NAME}.*", cb=heard.image)
    await nc.subscribe(f"$JS.ACK.EVENTS.ingest_{NAME}.>", cb=heard.ack)
    async with AsyncExitStack() as others:
        for stage in ("preprocess", "postprocess"):
            await worker(others, context, stage)
        intake = Intake(context=context, admission=Admission(context=context))
        await intake.start()
        for number in range(EVENTS):
            body, headers = b"image %d" % number, {"ce-id": str(number)}
            await publisher.publish(subjects.event(NAME, "cam"), body, headers=headers)
        yield intake, heard
        await intake.stop()
    with suppress(Refused):  # a test has removed it
        await context.catalog.registry.remove(NAME)
    await request(nc, f"CONSUMER.DELETE.{subjects.EVENTS}.ingest_{NAME}")
    await request(nc, f"STREAM.PURGE.{subjects.EVENTS}")


async def worker(stack: AsyncExitStack, context: Context, stage: str, **fields: object) -> None:
    """Have a worker announced until the stack is closed."""
    nodes = Nodes(nc=context.connection.client, node="elsewhere", stage=stage)
    stack.push_async_callback(nodes.stop)
    await nodes.start(load=lambda: 0.0)
    await nodes.update(ready=True, **fields)


async def test_events_wait_until_every_stage_has_a_worker(
    context: Context, unstaffed: tuple[Intake, Heard]
) -> None:
    _, heard = unstaffed
    await until(heard.kept)
    assert heard.sent == []
    async with AsyncExitStack() as infer:
        await worker(infer, context, "infer", models={NAME: (1,)})

        async def all_sent() -> bool:
            return len(heard.sent) >= EVENTS

        await until(all_sent)
    assert sorted(heard.sent) == [str(number) for number in range(EVENTS)]


async def test_events_that_wait_are_returned_by_a_worker_that_stops(
    unstaffed: tuple[Intake, Heard],
) -> None:
    intake, heard = unstaffed
    await until(heard.kept)
    await intake.stop()
    await until(heard.returned)
    assert heard.sent == []


async def test_an_event_that_waits_is_refused_when_its_model_is_removed(
    context: Context, unstaffed: tuple[Intake, Heard]
) -> None:
    _, heard = unstaffed
    await until(heard.kept)
    await context.catalog.registry.remove(NAME)
    subject = subjects.result(NAME, "cam", "0")

    async def answer() -> Msg | None:
        nc = context.connection.client
        return await stored_message(nc, subjects.RESULTS, last_by_subj=subject)

    result = Result.model_validate_json((await until(answer)).data)
    assert result.error is not None
    assert result.error.code is Code.UNKNOWN_MODEL
    assert heard.sent == []


async def test_an_event_that_waits_expires_in_time(
    publisher: Publisher, unstaffed: tuple[Intake, Heard], context: Context
) -> None:
    deadline = datetime.now(UTC) + timedelta(seconds=1)
    headers = {"ce-id": "late", "Vm-Deadline": deadline.isoformat()}
    await publisher.publish(subjects.event(NAME, "cam"), b"another", headers=headers)
    subject = subjects.result(NAME, "cam", "late")

    async def answer() -> Msg | None:
        return await stored_message(
            context.connection.client, subjects.RESULTS, last_by_subj=subject
        )

    result = Result.model_validate_json((await until(answer)).data)
    assert result.status is Status.EXPIRED
