"""The whole way of an image, through real servers and processes."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import httpx
import nats
import numpy as np
from PIL import Image

from tests.mesh.conftest import CLASSIFIER, SIZE, picture, write_classifier
from tests.networks import expected
from tests.polling import until
from tests.references import new_traceparent
from visionmesh.bus import Connection
from visionmesh.client import Mesh
from visionmesh.contracts import Params, Result, Status
from visionmesh.local import LocalMesh
from visionmesh.models.folder import load_folder
from visionmesh.models.registry import Registry


def labels(result: Result) -> list[str]:
    assert result.classes is not None
    return [one.label for one in result.classes]


async def test_answers_as_the_network_does(mesh: Mesh) -> None:
    pixels = np.random.default_rng(5).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
    result = await mesh.infer(CLASSIFIER, _png(pixels), params=Params(top_k=4))
    scores = expected(pixels.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255), seed=0)[
        0
    ]
    chances = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    assert result.status is Status.OK
    assert result.classes is not None
    found = {one.label: one.score for one in result.classes}
    for label, chance in zip(("ant", "bee", "cat", "dog"), chances, strict=True):
        assert abs(found[label] - chance) < 1e-4


async def test_a_model_is_there_as_soon_as_it_is_pushed(
    local_mesh: LocalMesh, mesh: Mesh, tmp_path: Path
) -> None:
    connection = await Connection.open(local_mesh.nats_url, name="pusher")
    registry = Registry(connection.client)
    for number in range(3):
        name = f"pushed-{number}"
        await registry.push(load_folder(write_classifier(tmp_path, name=name)))
        assert (await mesh.infer(name, picture())).status is Status.OK
        await registry.remove(name)
    await connection.close()


async def test_a_plain_nats_client_needs_nothing_of_ours(local_mesh: LocalMesh) -> None:
    client = await nats.connect(local_mesh.nats_url)
    results = await client.subscribe(f"vm.results.{CLASSIFIER}.plain.*")
    body = picture()
    await client.jetstream().publish(f"vm.events.{CLASSIFIER}.plain", body)
    message = await results.next_msg(timeout=10)
    assert json.loads(message.data)["status"] == "ok"
    assert message.headers is not None
    assert message.headers["ce-type"] == "io.visionmesh.result.ok"
    await client.close()


async def test_the_trace_of_a_producer_goes_on_with_the_result(
    local_mesh: LocalMesh, mesh: Mesh
) -> None:
    client = await nats.connect(local_mesh.nats_url)
    results = await client.subscribe(f"vm.results.{CLASSIFIER}.traced.*")
    await client.flush()
    producer, state = new_traceparent(), "rojo=00f067aa0ba902b7,congo=t61"
    for parent, beside in ((producer, state), (None, state), (None, None)):
        await mesh.publish(
            CLASSIFIER, picture(), source="traced", traceparent=parent, tracestate=beside
        )
    found = {}
    for _ in range(3):
        message = await results.next_msg(timeout=10)
        assert message.headers is not None
        told = message.headers.get("traceparent"), message.headers.get("tracestate")
        found[json.loads(message.data)["trace_id"]] = told
    await client.close()
    _, trace_id, span_id, _ = producer.split("-")
    continued, beside = found.pop(trace_id)
    assert beside == state
    assert re.fullmatch(rf"00-{trace_id}-(?!{span_id})[0-9a-f]{{16}}-01", continued or "")
    # Without a producer's span nobody's trace is continued, and a state belongs to none.
    assert list(found.values()) == 2 * [(None, None)]


async def test_http_answers_in_one_round_trip(http: httpx.AsyncClient) -> None:
    answer = await http.post(f"/v1/models/{CLASSIFIER}/infer?top_k=1", content=picture())
    assert answer.status_code == 200
    result = Result.model_validate_json(answer.content)
    assert len(labels(result)) == 1
    assert {"preprocess", "infer", "postprocess", "total"} <= set(result.timings)


async def test_http_takes_a_form(http: httpx.AsyncClient) -> None:
    files = {"image": ("a.jpg", picture(), "image/jpeg")}
    answer = await http.post(f"/v1/models/{CLASSIFIER}/infer", files=files)
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")


async def test_parameters_come_in_the_query_before_the_form_before_the_header(
    http: httpx.AsyncClient,
) -> None:
    async def asked(url: str, fields: dict[str, str]) -> int:
        files = {"image": ("a.jpg", picture(), "image/jpeg")}
        headers = {"Vm-Params": '{"top_k": 1}'}
        answer = await http.post(url, files=files, data=fields, headers=headers)
        return len(labels(Result.model_validate_json(answer.content)))

    url = f"/v1/models/{CLASSIFIER}/infer"
    assert await asked(url, {}) == 1
    assert await asked(url, {"top_k": "3"}) == 3
    assert await asked(f"{url}?top_k=4", {"top_k": "3"}) == 4


async def test_http_and_events_agree(mesh: Mesh, http: httpx.AsyncClient) -> None:
    body = picture()
    by_event = await mesh.infer("uncached", body)
    answer = await http.post("/v1/models/uncached/infer", content=body)
    assert Result.model_validate_json(answer.content).classes == by_event.classes


async def test_an_event_has_one_result_however_often_it_is_published(mesh: Mesh) -> None:
    results = mesh.results(CLASSIFIER, source="once")
    first = asyncio.ensure_future(anext(results))
    await asyncio.sleep(0)
    body = picture()
    for _ in range(3):
        await mesh.publish(CLASSIFIER, body, source="once", id="the-one")
    assert (await asyncio.wait_for(first, 10)).id == "the-one"
    await mesh.publish(CLASSIFIER, picture(), source="once", id="the-last")
    assert (await asyncio.wait_for(anext(results), 10)).id == "the-last"
    await results.aclose()


async def test_the_same_image_is_answered_from_the_cache(mesh: Mesh) -> None:
    body = picture()
    first = await mesh.infer(CLASSIFIER, body)
    second = await _until_cached(mesh, body, Params())
    assert second.cache is not None
    assert second.cache.level == "result"
    assert second.classes == first.classes


async def test_other_parameters_need_the_features_only(mesh: Mesh) -> None:
    body = picture()
    first = await _until_cached(mesh, body, Params())
    other = await mesh.infer(CLASSIFIER, body, params=Params(top_k=4))
    assert other.cache is not None
    assert other.cache.level == "features"
    assert "infer" not in other.timings
    assert len(labels(other)) == 4
    assert labels(other)[:2] == labels(first)


async def test_identical_images_at_once_are_computed_once(mesh: Mesh) -> None:
    body = picture(1500, 1000)
    results = await asyncio.gather(*(mesh.infer(CLASSIFIER, body) for _ in range(8)))
    assert {result.status for result in results} == {Status.OK}
    assert len({result.id for result in results}) == 8
    computed = [one for one in results if one.cache is None or not one.cache.hit]
    assert len(computed) == 1


async def test_a_model_without_cache_computes_every_time(mesh: Mesh) -> None:
    body = picture()
    for _ in range(2):
        result = await mesh.infer("uncached", body)
        assert result.cache is None
        assert "infer" in result.timings


async def test_a_deadline_that_passed_ends_as_expired(mesh: Mesh) -> None:
    result = await mesh.infer(CLASSIFIER, picture(), deadline=timedelta(seconds=-1))
    assert result.status is Status.EXPIRED
    assert result.error is not None
    assert result.error.code == "deadline_passed"


async def test_results_are_kept_and_found_by_id(mesh: Mesh) -> None:
    event = await mesh.publish(CLASSIFIER, picture(), source="kept")
    found = await until(lambda: mesh.result(CLASSIFIER, "kept", event))
    assert found.id == event


async def _until_cached(mesh: Mesh, body: bytes, params: Params) -> Result:
    """Ask until the answer, which is cached just after it was given, comes from there."""

    async def cached() -> Result | None:
        result = await mesh.infer(CLASSIFIER, body, params=params)
        return result if result.cache is not None and result.cache.hit else None

    return await until(cached)


def _png(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
