"""What Ollama's clients do wrong is refused in Ollama's form, and leaves nothing behind."""

from __future__ import annotations

import base64
import json

import httpx
import pytest

from tests.mesh.conftest import CLASSIFIER

NAME = CLASSIFIER.encode()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "missing request body"),
        (b"{", "JSON"),
        (b"[]", "JSON"),
        (b'{"model": "%s", "x": %s1%s}' % (NAME, b"[" * 10_000, b"]" * 10_000), "JSON"),
        (b'{"model": "%s", "images": ["@@"]}' % NAME, "base64"),
        (b'{"model": "%s", "images": ["\xc3\xa9"]}' % NAME, "base64"),
        (b'{"model": "%s", "images": 3}' % NAME, "images"),
        (b'{"model": "%s", "format": "yaml"}' % NAME, "format"),
        (b'{"model": "%s", "images": [%s"QUJD"]}' % (NAME, b'"QUJD",' * 64), "64"),
    ],
    ids=["empty", "broken", "list", "deep", "characters", "letters", "type", "format", "many"],
)
async def test_what_is_malformed_is_refused_in_the_same_form(
    http: httpx.AsyncClient, body: bytes, words: str
) -> None:
    response = await http.post("/api/generate", content=body)
    assert response.status_code == 400
    assert words in response.json()["error"]
    assert len(response.content) < 1000


async def test_what_is_too_large_is_refused(http: httpx.AsyncClient) -> None:
    large = base64.b64encode(bytes(9 << 20)).decode()
    response = await http.post("/api/generate", json={"model": CLASSIFIER, "images": [large]})
    assert response.status_code == 413


async def test_a_file_with_another_digest_is_not_kept(http: httpx.AsyncClient) -> None:
    path = f"/api/blobs/sha256:{'0' * 64}"
    answer = await http.post(path, content=b"something else")
    assert answer.status_code == 400
    assert "digest mismatch" in answer.json()["error"]
    assert (await http.head(path)).status_code == 404
    assert (await http.head("/api/blobs/sha256:0")).status_code == 400
    create = {"model": "ollama-lied", "files": {"model.yaml": f"sha256:{'0' * 64}"}}
    answer = await http.post("/api/create", json=create)
    assert answer.status_code == 400
    assert "not found" in answer.json()["error"]


async def test_files_that_are_no_model_end_the_stream_with_an_error(
    http: httpx.AsyncClient,
) -> None:
    digest = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (await http.post(f"/api/blobs/{digest}", content=b"abc")).status_code == 201
    assert (await http.post(f"/api/blobs/{digest}", content=b"abc")).status_code == 200
    for path in ("model.yaml", "../../model.yaml"):
        create = {"model": "ollama-none", "files": {path: digest}}
        answer = await http.post("/api/create", json=create)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert "error" in json.loads(answer.text.splitlines()[-1])
        answer = await http.post("/api/create", json={**create, "stream": False})
        assert answer.status_code in (400, 422)


async def test_other_paths_and_methods_are_refused(http: httpx.AsyncClient) -> None:
    nowhere = await http.get("/api/nowhere")
    assert (nowhere.status_code, list(nowhere.json())) == (404, ["error"])
    assert (await http.get("/api/generate")).status_code == 405
