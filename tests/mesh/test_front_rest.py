"""Images and answers of our own REST interface, as its users have them."""

from __future__ import annotations

import gzip

import cv2
import httpx
import numpy as np
import pytest

from tests.mesh.answers import INFER, code, in_base64, result_of
from tests.mesh.conftest import CLASSIFIER, picture
from visionmesh.client import Mesh
from visionmesh.contracts import Params, Result, Status


async def test_json_brings_an_image_in_base64(http: httpx.AsyncClient, mesh: Mesh) -> None:
    body = picture()
    asked = {"data": in_base64(body), "params": {"top_k": 1}}
    found = result_of(await http.post(INFER, json=asked))
    assert found.classes == (await mesh.infer(CLASSIFIER, body, params=Params(top_k=1))).classes
    assert len(result_of(await http.post(f"{INFER}?top_k=2", json=asked)).classes or ()) == 2


async def test_several_images_have_a_list_of_results_in_their_order(
    http: httpx.AsyncClient, mesh: Mesh
) -> None:
    bodies = [picture(), b"no image", picture()]
    form = await http.post(INFER, files=[("image", (f"{n}", b)) for n, b in enumerate(bodies)])
    listed = await http.post(INFER, json=[{"data": in_base64(body)} for body in bodies])
    for answer in (form, listed):
        assert answer.status_code == 200
        results = [Result.model_validate(one) for one in answer.json()["results"]]
        assert [one.status for one in results] == [Status.OK, Status.ERROR, Status.OK]
        assert len({one.id for one in results}) == 3
        for body, one in zip(bodies[::2], results[::2], strict=True):
            assert one.classes == (await mesh.infer(CLASSIFIER, body)).classes


async def test_a_list_of_one_has_a_list_of_one(http: httpx.AsyncClient) -> None:
    answer = await http.post(INFER, json=[{"data": in_base64(picture())}])
    assert [one["status"] for one in answer.json()["results"]] == ["ok"]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"null",
        b"[" * 10_000,
        b'{"data": "' + b"[" * 10_000,
        b'{"data": "AAAA", "url": "https://example.org"}',
        b'{"data": "not base64!"}',
        b'{"data": "\xff\xfe"}',
        b'{"data": 7}',
        b'{"data": "AAAA", "params": {"top_k": true}}',
        b'{"data": "AAAA", "params": {"confidense": 1}}',
        b"[" + b",".join([b'{"data": "AAAA"}'] * 17) + b"]",
    ],
)
async def test_json_that_is_not_as_it_must_be_is_refused(
    http: httpx.AsyncClient, body: bytes
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await http.post(INFER, content=body, headers=headers)
    assert code(answer) == (400, "invalid_request")
    assert len(answer.text) < 1000
    assert (await http.post(INFER, content=picture())).status_code == 200


@pytest.mark.parametrize("where", ["infer", "events"])
async def test_a_body_that_is_compressed_as_a_whole_is_refused(
    http: httpx.AsyncClient, where: str
) -> None:
    headers = {"Content-Encoding": "gzip", "Content-Type": "image/png"}
    url = f"/v1/models/{CLASSIFIER}/{where}"
    refused = await http.post(url, content=gzip.compress(picture()), headers=headers)
    assert refused.status_code == 415
    assert refused.json()["error"]["code"] == "unsupported_media"


@pytest.mark.parametrize("url", ["https://example.org/a.jpg", "http://127.0.0.1/", "file:///etc"])
async def test_no_url_is_fetched_unless_its_host_is_allowed(
    http: httpx.AsyncClient, url: str
) -> None:
    assert code(await http.post(INFER, json={"url": url})) == (422, "url_refused")


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("image/jpeg", "image/jpeg"),
        ("image/png;q=0.9, application/json;q=0.5", "image/png"),
        ("text/html, image/png;q=0.1, */*;q=0.8", "application/json"),
        ("image/webp", "application/json"),
    ],
)
async def test_who_accepts_a_picture_gets_the_image_drawn_on(
    http: httpx.AsyncClient, accept: str, kind: str
) -> None:
    body = picture(160, 120, kind="PNG")
    answer = await http.post(INFER, content=body, headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    if kind.startswith("image/"):
        drawn, given = (
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            for data in (answer.content, body)
        )
        assert drawn is not None
        assert given is not None
        assert drawn.shape == given.shape
        assert np.abs(drawn.astype(int) - given)[:20].max() > 100  # the caption


async def test_an_error_is_no_picture(http: httpx.AsyncClient) -> None:
    headers = {"Accept": "image/jpeg"}
    answer = await http.post(INFER, content=b"no image", headers=headers)
    assert answer.headers["content-type"] == "application/json"
    assert 400 <= answer.status_code < 500


async def test_models_are_told(http: httpx.AsyncClient) -> None:
    told = (await http.get("/v1/models")).json()["models"]
    assert {"classifier", "uncached"} <= {one["name"] for one in told}
    [one] = [one for one in told if one["name"] == CLASSIFIER]
    assert one == (await http.get(f"/v1/models/{CLASSIFIER}")).json()
    assert one["labels"] == ["ant", "bee", "cat", "dog"]
    assert one["ready"] is True
    assert code(await http.get("/v1/models/nobody")) == (404, "unknown_model")
