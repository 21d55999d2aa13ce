"""`visionmesh show` tells where a version is loaded."""

from __future__ import annotations

from datetime import UTC, datetime

from tests.networks import describe
from tests.workers import make_loaded, make_record
from visionmesh.cli.versions import state_of
from visionmesh.models.record import ModelRecord, VersionRecord

SPEC = describe(name="cats")
VERSION = VersionRecord(
    sha256="0" * 64,
    size_bytes=1,
    pushed_at=datetime.now(UTC),
    input=SPEC.input,
    output=SPEC.output,
    labels=SPEC.labels,
    batch=None,
    outputs=(),
)


def test_a_worker_that_still_holds_what_it_no_longer_serves_makes_nobody_sleep() -> None:
    record = ModelRecord(spec=SPEC, versions={1: VERSION})
    leaving = make_record("a", models={}, loaded=(make_loaded("cats", "cpu", version=1),))
    sleeping = make_record("b", models={"cats": (1,)}, loaded=())
    assert state_of(record, 1, [leaving]) == "1 loaded"
    assert state_of(record, 1, [leaving, sleeping]) == "1 loaded, 1 asleep"
