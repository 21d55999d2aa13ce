"""Workers that see each other through a real server; clocks run faster than in a mesh."""

from __future__ import annotations

import json
import logging
from datetime import timedelta

import pytest

from tests.polling import until
from tests.visionmesh.conftest import Join, remove_bucket, sees
from visionmesh.bus import Connection
from visionmesh.nodes import Nodes, list_nodes, nodes_bucket
from visionmesh.subjects import ANY_LANE


async def test_a_worker_is_listed_with_what_it_tells(join: Join, connection: Connection) -> None:
    await join("b", "infer", models={"cats": (1, 2)}, ready=True, http="http://127.0.0.1:1")
    await join("a", "infer")
    infer_a, infer_b = await list_nodes(connection.client)
    assert (infer_a.node, infer_a.ready, infer_a.load) == ("a", False, 3.0)
    assert (infer_b.node, infer_b.models, infer_b.ready) == ("b", {"cats": (1, 2)}, True)


async def test_who_listens_is_told_that_a_worker_came_changed_and_went(join: Join) -> None:
    here = await join("a", "ingest")
    told: list[frozenset[int]] = []
    here.on_change(lambda: told.append(here.versions("cats")))
    infer = await join("b", "infer", models={"cats": (1,)})
    await sees(lambda: {1} in told)
    await infer.update(models={"cats": (1, 2)})
    await sees(lambda: {1, 2} in told)
    await infer.stop()
    await sees(lambda: told[-1] == frozenset())


async def test_the_lane_is_this_node_s_where_a_ready_worker_serves_the_model(join: Join) -> None:
    here = await join("a", "preprocess")
    elsewhere = await join("b", "preprocess")
    infer = await join("a", "infer", models={"cats": (1,)})
    await sees(lambda: here.serving("cats"))
    assert here.lane("infer", "cats") == ANY_LANE  # not ready yet
    await infer.update(ready=True)
    await sees(lambda: here.lane("infer", "cats") == "a")
    assert here.lane("infer", "dogs") == ANY_LANE
    assert here.lane("infer") == "a"
    assert here.lane("postprocess") == ANY_LANE
    await sees(lambda: elsewhere.serving("cats"))
    assert elsewhere.lane("infer", "cats") == ANY_LANE


async def test_a_model_is_served_from_when_it_is_loaded_until_it_is_dropped(join: Join) -> None:
    here = await join("a", "ingest")
    infer = await join("b", "infer", ready=True)
    assert not here.serving("cats")
    await infer.update(models={"cats": (1,)})
    await sees(lambda: here.serving("cats"))
    await infer.update(models={})
    await sees(lambda: not here.serving("cats"))


async def test_a_model_is_staffed_while_every_stage_has_a_worker_for_it(join: Join) -> None:
    here = await join("a", "ingest")
    await join("b", "infer", models={"cats": (1,)}, failed={"dogs/1": "no such operator"})
    await join("b", "postprocess", ready=True)
    preprocess = await join("b", "preprocess")
    await sees(lambda: here.serving("cats"))
    assert not here.staffed("cats")  # preprocess is not ready yet
    await preprocess.update(ready=True)
    await sees(lambda: here.staffed("cats"))
    assert here.staffed("dogs"), "infer refuses its images"
    assert not here.staffed("birds"), "infer may be loading it"
    await preprocess.stop()
    await sees(lambda: not here.staffed("cats"))


async def test_what_a_newer_release_tells_besides_is_passed_over(
    join: Join, connection: Connection
) -> None:
    here = await join("a", "ingest")
    await join("b", "infer", models={"cats": (1,)}, ready=True)
    (record,) = [one for one in await list_nodes(connection.client) if one.stage == "infer"]
    newer = json.loads(record.model_dump_json()) | {"node": "c", "colour": "red"}
    bucket = await nodes_bucket(connection.client)
    await bucket.put("infer.c.newer", json.dumps(newer).encode())
    await sees(lambda: "c" in here.places("cats"))


async def test_a_worker_that_stops_is_gone_at_once(join: Join, connection: Connection) -> None:
    here = await join("a", "preprocess")
    infer = await join("a", "infer", models={"cats": (1,)}, ready=True)
    await sees(lambda: here.lane("infer", "cats") == "a")
    await infer.stop()
    await sees(lambda: here.lane("infer", "cats") == ANY_LANE)
    assert [record.stage for record in await list_nodes(connection.client)] == ["preprocess"]


async def test_a_worker_that_falls_silent_expires(
    join: Join, connection: Connection, nats_url: str
) -> None:
    here = await join("a", "preprocess")
    lost = await Connection.open(nats_url, name="lost")
    infer = Nodes(nc=lost.client, node="a", stage="infer")
    await infer.start(load=lambda: 0.0)
    await infer.update(models={"cats": (1,)}, ready=True)
    await sees(lambda: here.lane("infer", "cats") == "a")
    await lost.close()  # all that anybody else sees of a worker that was killed
    await sees(lambda: here.lane("infer", "cats") == ANY_LANE)
    assert not here.serving("cats")
    await infer.stop()

    async def unlisted() -> bool:
        return [one.stage for one in await list_nodes(connection.client)] == ["preprocess"]

    await until(unlisted)


async def test_the_backlog_is_that_of_the_least_busy_worker(join: Join) -> None:
    here = await join("a", "preprocess")
    assert here.backlog("cats") == timedelta(0)
    busy = {"models": {"cats": (1,)}, "backlog": {"cats": 512}}
    await join("a", "infer", **busy)
    await sees(lambda: here.backlog("cats") == timedelta(milliseconds=512))
    other = await join("b", "infer", **(busy | {"backlog": {"cats": 64}}))
    await sees(lambda: here.backlog("cats") == timedelta(milliseconds=64))
    await join("c", "infer", models={"dogs": (1,)})
    await other.update(backlog={})
    await sees(lambda: here.backlog("cats") == timedelta(0))


async def test_images_go_to_versions_that_all_workers_have(join: Join) -> None:
    here = await join("a", "ingest")
    assert here.versions("cats") == frozenset()
    first = await join("b", "infer", models={"cats": (1,)})
    second = await join("c", "infer", models={"cats": (1, 2)})
    await join("d", "infer", models={"dogs": (7,)})
    await sees(lambda: here.versions("dogs"))
    await sees(lambda: here.versions("cats") == {1})
    await first.update(models={"cats": (1, 2)})
    await sees(lambda: here.versions("cats") == {1, 2})
    # Nothing in common: what one of them could not load goes to none.
    await first.update(models={"cats": (1,)}, failed={"cats/2": "no room"})
    await second.update(models={"cats": (2,)})
    await sees(lambda: here.versions("cats") == {1})


async def test_why_a_version_failed_is_known_to_all(join: Join) -> None:
    here = await join("a", "ingest")
    await join("b", "infer", failed={"cats/2": "no such operator"})
    await sees(lambda: here.failure("cats"))
    assert here.failure("cats") == "no such operator"
    assert here.failure("cat") is None


async def test_a_record_is_agreed_on_when_all_who_run_and_decode_have_applied_it(
    join: Join,
) -> None:
    here = await join("a", "ingest", ready=True)
    decoding = await join("b", "postprocess", ready=True, applied={"cats": 2})
    first = await join("b", "infer", ready=True, applied={"cats": 1})
    await join("c", "infer", ready=False)
    await join("d", "infer", ready=True, applied=None)  # as another release, which tells none
    assert not here.agreed("cats", 2)
    await first.update(applied={"cats": 2})
    await sees(lambda: here.agreed("cats", 2))
    await decoding.update(applied={})
    await sees(lambda: not here.agreed("cats", 2))
    await decoding.update(applied={"cats": 2})
    await sees(lambda: here.agreed("cats", 2))
    begun = await join("d", "postprocess", ready=True)
    await sees(lambda: not here.agreed("cats", 2))
    await begun.stop()
    await sees(lambda: here.agreed("cats", 2))
    await first.stop()
    await sees(lambda: not here.agreed("cats", 2))


async def test_what_runs_but_has_failed_is_outdated(join: Join) -> None:
    here = await join("a", "ingest")
    infer = await join("b", "infer", models={"cats": (1, 2)}, failed={"cats/2": "no room"})
    await join("c", "infer", models={"cats": (2,)}, failed={"cats/1": "no such device"})
    await sees(lambda: here.outdated("cats") == {2})
    await infer.update(failed={})
    await sees(lambda: here.outdated("cats") == frozenset())


@pytest.mark.parametrize("value", [b"no JSON", b"{}", b'{"node": "b", "colour": "red"}'])
async def test_records_of_another_release_are_skipped(
    join: Join, connection: Connection, caplog: pytest.LogCaptureFixture, value: bytes
) -> None:
    here = await join("a", "preprocess")
    bucket = await nodes_bucket(connection.client)
    with caplog.at_level(logging.WARNING, logger="visionmesh.nodes"):
        await bucket.put("infer.a.strange", value)
        await sees(lambda: "infer.a.strange is of another release" in caplog.text)
    assert here.lane("infer") == ANY_LANE
    assert [record.stage for record in await list_nodes(connection.client)] == ["preprocess"]


async def test_workers_find_each_other_again_after_the_bucket_is_lost(
    join: Join, connection: Connection
) -> None:
    here = await join("a", "preprocess")
    infer = await join("a", "infer", ready=True)
    await sees(lambda: here.lane("infer") == "a")
    await remove_bucket(connection)  # as a restarted server does: it is kept in memory
    await sees(lambda: here.lane("infer") == ANY_LANE)
    await infer.update(models={"cats": (1,)})
    await sees(lambda: here.lane("infer", "cats") == "a")
