"""Copies for a shadow whose services are not there: nothing else may notice."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from services.ingest import shadow
from services.ingest.shadow import MAX_COPIES, Shadows
from tests.polling import until
from tests.visionmesh.models.test_record import record_of
from visionmesh.bus.api import request
from visionmesh.context import Context, open_context
from visionmesh.contracts import ClassScore, Reference, Result, Status
from visionmesh.models.record import ModelRecord
from visionmesh.settings import Settings
from visionmesh.subjects import IMAGES

RECORD = record_of(1, 2, traffic={1: 1}).steered(shadow=2)


@pytest.fixture
async def context(nats_url: str, tmp_path: Path) -> AsyncIterator[Context]:
    settings = Settings(nats_url=nats_url, state_dir=tmp_path, shm_dir=tmp_path)
    async with open_context(settings, stage="ingest", stream="EVENTS") as context:
        yield context


@pytest.fixture
async def shadows(context: Context, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shadows]:
    monkeypatch.setattr(shadow, "PATIENCE", timedelta(milliseconds=300))
    await request(context.connection.client, f"STREAM.PURGE.{IMAGES}")
    shadows = Shadows(context=context)
    await shadows.start()
    yield shadows
    await shadows.stop()


def reference_of(id: str, *, version: int = 1, reply: str | None = None) -> Reference:
    now = time.time_ns()
    return Reference(
        id=id, source="cam", model="trees", version=version, sha256="0" * 64, reply=reply,
        received_ns=now, sent_ns=now,
    )  # fmt: skip


def result_of(reference: Reference) -> Result:
    return Result(
        id=reference.id, source=reference.source, model=reference.model, version=1,
        status=Status.OK, classes=(ClassScore(label="ash", score=0.9),),
    )  # fmt: skip


def counted(context: Context, outcome: str) -> float:
    told = context.metrics.exposition()[0].decode()
    labels = f'{{model="trees",outcome="{outcome}",version="2"}}'
    lines = [
        line for line in told.splitlines() if line.startswith(f"visionmesh_shadow_total{labels}")
    ]
    return float(lines[0].split()[-1]) if lines else 0.0


async def images_sent(context: Context) -> int:
    answer = await request(context.connection.client, f"STREAM.INFO.{IMAGES}")
    return int(answer["state"]["messages"])


async def until_counted(context: Context, outcome: str, count: int) -> None:
    async def probe() -> bool:
        return counted(context, outcome) == count

    await until(probe)


async def test_a_shadow_that_does_not_keep_up_does_without(
    context: Context, shadows: Shadows
) -> None:
    for number in range(MAX_COPIES + 5):
        reference = reference_of(f"image-{number}")
        shadows.follow(RECORD, reference, b"an image", result_of(reference))
    assert counted(context, "skipped") == 5
    await until_counted(context, "lost", MAX_COPIES)

    async def shown_again() -> bool:
        before = counted(context, "skipped")
        shadows.follow(RECORD, reference, b"an image", result_of(reference))
        return counted(context, "skipped") == before

    await until(shown_again)


async def test_a_copy_is_sent_only_after_the_original_was_answered(
    context: Context, shadows: Shadows
) -> None:
    reference = reference_of("image", reply="_INBOX.caller")
    shadows.follow(RECORD, reference, b"an image", None)
    assert await images_sent(context) == 0
    shadows.landed("_INBOX.caller", result_of(reference).to_json())
    await until_counted(context, "lost", 1)
    assert await images_sent(context) == 1


async def test_an_original_without_an_answer_has_no_copy(
    context: Context, shadows: Shadows
) -> None:
    shadows.follow(RECORD, reference_of("image", reply="_INBOX.caller"), b"an image", None)
    shadows.landed("_INBOX.caller", None)
    await until_counted(context, "skipped", 1)
    assert await images_sent(context) == 0


@pytest.mark.parametrize(
    ("record", "version"),
    [
        (record_of(1, 2), 1),
        (RECORD, 2),  # a late image that the shadow answers itself
    ],
)
async def test_without_a_shadow_nothing_is_copied(
    context: Context, shadows: Shadows, record: ModelRecord, version: int
) -> None:
    reference = reference_of("image", version=version)
    shadows.follow(record, reference, b"an image", result_of(reference))
    await shadows.stop()
    assert await images_sent(context) == 0
