import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from visionmesh.errors import Code
from visionmesh.telemetry.metrics import Metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(stage="infer", registry=CollectorRegistry())


def scrape(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    body, content_type = metrics.exposition()
    assert content_type.startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def test_a_scrape_shows_what_was_counted_for_a_model(metrics: Metrics) -> None:
    faces = metrics.model("faces")
    faces.done("ok")
    faces.done("ok")
    faces.done("error", Code.MODEL_FAILED)
    faces.dead(Code.MODEL_FAILED)
    faces.inference(0.003)
    faces.queued(0.02)
    faces.queue_depth(17)
    faces.engine_queue(3)
    faces.batch(6)
    seen = scrape(metrics)
    model = ("model", "faces")
    stage = ("stage", "infer")
    ok = (model, ("reason", ""), stage, ("status", "ok"))
    failed = (model, ("reason", "model_failed"), stage, ("status", "error"))
    assert seen["visionmesh_requests_total", ok] == 2
    assert seen["visionmesh_requests_total", failed] == 1
    assert seen["visionmesh_dead_total", (model, ("reason", "model_failed"), stage)] == 1
    assert seen["visionmesh_inference_seconds_sum", (model, stage)] == 0.003
    assert seen["visionmesh_queue_seconds_count", (model, stage)] == 1
    assert seen["visionmesh_queue_depth", (("lane", ""), model, stage)] == 17
    assert seen["visionmesh_engine_queue", (model,)] == 3
    assert seen["visionmesh_batch_size_bucket", (("le", "4.0"), model)] == 0
    assert seen["visionmesh_batch_size_bucket", (("le", "8.0"), model)] == 1


def test_inference_is_resolved_from_half_a_millisecond_to_ten_seconds(metrics: Metrics) -> None:
    faces = metrics.model("faces")
    faces.inference(0.0004)
    faces.inference(9.0)
    seen = scrape(metrics)
    labels = (("model", "faces"), ("stage", "infer"))
    bucket = "visionmesh_inference_seconds_bucket"
    assert seen[bucket, (("le", "0.0005"), *labels)] == 1
    assert seen[bucket, (("le", "5.0"), *labels)] == 1
    assert seen[bucket, (("le", "10.0"), *labels)] == 2


def test_a_scrape_shows_the_process_and_its_arena_and_cache(metrics: Metrics) -> None:
    metrics.watch_arena(used=lambda: 3 << 20, capacity=64 << 20)
    metrics.watch_in_flight(lambda: 5)
    metrics.redelivered()
    metrics.joined()
    metrics.cache("hit_result")
    metrics.cache("miss", 3)
    metrics.watch_spans(lambda: 12)
    seen = scrape(metrics)
    stage = (("stage", "infer"),)
    assert seen["visionmesh_arena_used_bytes", stage] == 3 << 20
    assert seen["visionmesh_arena_capacity_bytes", stage] == 64 << 20
    assert seen["visionmesh_in_flight", stage] == 5
    assert seen["visionmesh_redeliveries_total", stage] == 1
    assert seen["visionmesh_single_flight_total", ()] == 1
    assert seen["visionmesh_cache_total", (("outcome", "hit_result"),)] == 1
    assert seen["visionmesh_cache_total", (("outcome", "miss"),)] == 3
    assert seen["visionmesh_spans_dropped_total", ()] == 12
    assert seen["process_resident_memory_bytes", ()] > 1 << 20


def test_a_forgotten_model_leaves_no_series_and_may_come_back(metrics: Metrics) -> None:
    for name in ("faces", "boards"):
        model = metrics.model(name)
        model.done("ok")
        model.dead(Code.MODEL_FAILED)
        model.inference(0.1)
    metrics.forget("faces")
    metrics.forget("never-seen")
    named = {value for _, labels in scrape(metrics) for key, value in labels if key == "model"}
    assert named == {"boards"}
    metrics.model("faces").done("ok")
    ok = (("model", "faces"), ("reason", ""), ("stage", "infer"), ("status", "ok"))
    assert scrape(metrics)["visionmesh_requests_total", ok] == 1


def test_a_stage_that_never_told_a_queue_shows_none(metrics: Metrics) -> None:
    metrics.model("faces").done("ok")
    told = {name for name, _ in scrape(metrics)}
    assert told.isdisjoint({"visionmesh_queue_depth", "visionmesh_engine_queue"})


def test_a_queue_is_asked_for_its_depth_until_its_model_is_forgotten(metrics: Metrics) -> None:
    waiting = [1, 2, 3]
    metrics.watch_queue(waiting.__len__, model="faces", lane="any")
    queue = "visionmesh_queue_depth", (("lane", "any"), ("model", "faces"), ("stage", "infer"))
    assert scrape(metrics)[queue] == 3
    waiting.pop()
    assert scrape(metrics)[queue] == 2
    metrics.forget("faces")
    assert queue not in scrape(metrics)


def test_two_processes_in_one_test_do_not_share_counters(metrics: Metrics) -> None:
    other = Metrics(stage="infer", registry=CollectorRegistry())
    metrics.redelivered()
    assert scrape(other)["visionmesh_redeliveries_total", (("stage", "infer"),)] == 0


def test_versions_are_told_apart_and_forgotten_with_their_model(metrics: Metrics) -> None:
    faces = metrics.model("faces")
    faces.engine(1, 0.02)
    faces.engine(2, 0.01)
    faces.shadowed(3, "compared", 0.5)
    faces.shadowed(3, "compared", 1.0)
    faces.shadowed(3, "skipped")
    seen = scrape(metrics)
    model, third = ("model", "faces"), ("version", "3")
    assert seen["visionmesh_engine_seconds_sum", (model, ("version", "1"))] == 0.02
    assert seen["visionmesh_engine_seconds_count", (model, ("version", "2"))] == 1
    assert seen["visionmesh_agreement_sum", (model, third)] == 1.5
    assert seen["visionmesh_agreement_count", (model, third)] == 2
    assert seen["visionmesh_shadow_total", (model, ("outcome", "skipped"), third)] == 1
    metrics.forget("faces")
    assert not any(model in labels for _, labels in scrape(metrics))
