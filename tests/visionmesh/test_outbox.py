"""Bundles as they pass through a real server."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from nats.aio.msg import Msg

from tests.polling import until
from tests.references import make_reference, new_traceparent
from visionmesh import subjects
from visionmesh.bundle import decode
from visionmesh.bus import Connection, Publisher
from visionmesh.contracts import InlineLocation, Reference, ShmLocation
from visionmesh.outbox import (
    LINGER_LIMIT,
    MAX_REFERENCES,
    Forward,
    Onward,
    Outbox,
    forward,
)
from visionmesh.settings import TracingSettings
from visionmesh.telemetry.kept import read_trace
from visionmesh.telemetry.tracing import Tracing
from visionmesh.tensors import InlineArena
from visionmesh.trail import Trail

SHM = ShmLocation(arena="a", slot=1, generation=2, length=3)
LONG = timedelta(hours=1)
_models = itertools.count()


class Bundles:
    """Hears the bundles of one model."""

    def __init__(self) -> None:
        self.heard: list[tuple[list[Reference], bytes]] = []

    async def hear(self, message: Msg) -> None:
        references, payloads = decode(message.data)
        self.heard.append((references, bytes(payloads)))

    async def of(self, images: int) -> list[list[str]]:
        """Return the ids in each bundle once so many images were heard."""

        async def all_there() -> bool:
            return sum(len(references) for references, _ in self.heard) >= images

        await until(all_there)
        return [[reference.id for reference in references] for references, _ in self.heard]


@pytest.fixture
def model() -> str:
    return f"outbox-{next(_models)}"


@pytest.fixture
def backlogs() -> dict[str, timedelta]:
    """The backlog that the engines of each model tell of."""
    return {}


@pytest.fixture
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold references back for longer than any busy machine needs for a round trip."""
    monkeypatch.setattr("visionmesh.outbox.LINGER_LIMIT", timedelta(minutes=1))


@pytest.fixture
async def outbox(publisher: Publisher, backlogs: dict[str, timedelta]) -> AsyncIterator[Outbox]:
    outbox = Outbox(publisher=publisher, backlog=lambda model: backlogs.get(model, timedelta(0)))
    yield outbox
    await outbox.close()


@pytest.fixture
async def bundles(connection: Connection, model: str) -> AsyncIterator[Bundles]:
    bundles = Bundles()
    subscription = await connection.client.subscribe(f"vm.tensors.{model}.*", cb=bundles.hear)
    yield bundles
    await subscription.unsubscribe()


def open_tracing(state_dir: Path | None = None) -> Tracing:
    return Tracing(
        settings=TracingSettings(), service="t", node="n", state_dir=state_dir, environment={}
    )


def onward(model: str, *, sending: Forward | None = None) -> Onward:
    """Return an image that goes on to TENSORS, by default with its payload in shared memory."""
    reference = make_reference(model=model)
    trail = Trail(tracing=open_tracing(), stage="preprocess", stream="IMAGES", reference=reference)
    subject = subjects.tensor(model, "any")
    return reference, sending or Forward(subjects.TENSORS, subject, SHM, None, {}), trail


def ids(images: Sequence[Onward]) -> list[str]:
    return [reference.id for reference, _, _ in images]


async def test_what_is_at_hand_goes_in_bundles_in_order(
    outbox: Outbox, bundles: Bundles, model: str
) -> None:
    images = [onward(model) for _ in range(2 * MAX_REFERENCES + 3)]
    await outbox.pass_on(images)
    sent = await bundles.of(len(images))
    assert [len(bundle) for bundle in sent] == [MAX_REFERENCES, MAX_REFERENCES, 3]
    assert [one for bundle in sent for one in bundle] == ids(images)


async def test_images_of_one_moment_share_a_bundle(
    outbox: Outbox, bundles: Bundles, model: str
) -> None:
    images = [onward(model) for _ in range(5)]
    await asyncio.gather(*(outbox.pass_on([image]) for image in images))
    assert await bundles.of(5) == [ids(images)]


async def test_without_a_backlog_nothing_is_held_back(
    outbox: Outbox, bundles: Bundles, model: str
) -> None:
    first, second = onward(model), onward(model)
    await outbox.pass_on([first])
    await outbox.pass_on([second])
    assert await bundles.of(2) == [ids([first]), ids([second])]


@pytest.mark.usefixtures("_patience")
async def test_under_a_backlog_an_image_is_held_back_for_company(
    outbox: Outbox, bundles: Bundles, model: str, backlogs: dict[str, timedelta]
) -> None:
    backlogs[model] = LONG
    first, second = onward(model), onward(model)
    held = asyncio.ensure_future(outbox.pass_on([first]))
    await outbox.pass_on([onward(f"{model}-idle")])  # a whole round trip of another model's image
    assert not held.done()
    company = asyncio.ensure_future(outbox.pass_on([second]))
    await asyncio.sleep(0)
    await outbox.close()
    assert await bundles.of(2) == [ids([first, second])]
    await asyncio.gather(held, company)


async def test_an_image_without_company_goes_alone_after_a_while(
    outbox: Outbox, bundles: Bundles, model: str, backlogs: dict[str, timedelta]
) -> None:
    backlogs[model] = LONG
    image = onward(model)
    began = time.monotonic()
    await outbox.pass_on([image])
    assert time.monotonic() - began >= LINGER_LIMIT.total_seconds() * 0.9
    assert await bundles.of(1) == [ids([image])]


@pytest.mark.usefixtures("_patience")
async def test_a_full_bundle_is_not_held_back(
    outbox: Outbox, bundles: Bundles, model: str, backlogs: dict[str, timedelta]
) -> None:
    backlogs |= {model: LONG, f"{model}-other": LONG}
    held = asyncio.ensure_future(outbox.pass_on([onward(f"{model}-other")]))
    full = [onward(model) for _ in range(MAX_REFERENCES)]
    await outbox.pass_on(full)
    assert not held.done()
    assert await bundles.of(MAX_REFERENCES) == [ids(full)]
    await outbox.close()
    await held


@pytest.mark.usefixtures("_patience")
async def test_closing_sends_what_waits(
    outbox: Outbox, bundles: Bundles, model: str, backlogs: dict[str, timedelta]
) -> None:
    backlogs[model] = LONG
    image = onward(model)
    held = asyncio.ensure_future(outbox.pass_on([image]))
    await asyncio.sleep(0)
    await outbox.close()
    assert await bundles.of(1) == [ids([image])]
    await held


async def test_large_payloads_go_in_messages_of_their_own(
    outbox: Outbox, bundles: Bundles, model: str
) -> None:
    subject = subjects.tensor(model, "any")
    arena = InlineArena(max_bytes=16 << 20)
    images = []
    for number in range(3):
        with arena.reserve(3 << 20) as slot:
            slot.view[:] = bytes([number]) * len(slot.view)
            sending = forward(subjects.TENSORS, subject, slot)
        images.append(onward(model, sending=sending))
    await outbox.pass_on(images)
    assert await bundles.of(3) == [[reference.id] for reference, _, _ in images]
    for number, ((reference,), payloads) in enumerate(bundles.heard):
        assert reference.location == InlineLocation(offset=0, length=3 << 20)
        assert payloads == bytes([number]) * (3 << 20)


async def test_a_reference_says_what_changed_and_how_long_it_took(
    outbox: Outbox, bundles: Bundles, model: str, tmp_path: Path
) -> None:
    now = time.time_ns()
    with closing(open_tracing(tmp_path)) as tracing:
        reference = make_reference(
            model=model, sent_ns=now - 50_000_000, timings={"ingest": 1.5},
            traceparent=new_traceparent(),
        )  # fmt: skip
        trail = Trail(tracing=tracing, stage="preprocess", stream="IMAGES", reference=reference)
        sending = Forward(
            subjects.TENSORS, subjects.tensor(model, "any"), SHM, None, {"width": 7, "height": 5}
        )
        await outbox.pass_on([(reference, sending, trail)])
        trail.close()
    await bundles.of(1)
    (((sent,), _),) = bundles.heard
    assert (sent.width, sent.height, sent.location) == (7, 5, SHM)
    assert sent.timings.keys() == {"ingest", "preprocess_queue", "preprocess"}
    assert sent.timings["preprocess_queue"] >= 50
    assert now <= sent.sent_ns <= time.time_ns()
    names = [kept.span.name for kept in read_trace(tmp_path, trail.trace_id or "")]
    assert "publish TENSORS" in names
