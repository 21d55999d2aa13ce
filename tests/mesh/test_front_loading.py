"""Who loads a model hears when it answers as it was told to, and no sooner."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest
from PIL import Image

from tests.mesh.conftest import SIZE, picture, write_classifier
from tests.networks import save_network
from visionmesh.bus import Connection
from visionmesh.contracts import Result
from visionmesh.local import LocalMesh
from visionmesh.models.registry import Registry

NAME = "reloaded"
LABELS = ["ant", "bee", "cat", "dog"]


@pytest.fixture(autouse=True)
async def removed(local_mesh: LocalMesh) -> AsyncIterator[None]:
    yield
    connection = await Connection.open(local_mesh.nats_url, name="test")
    await Registry(connection.client).remove(NAME)
    await connection.close()


def folder(root: Path, seed: int = 0, **changes: object) -> Path:
    """Write a model whose weights are those of ``seed``."""
    written = write_classifier(root / str(seed), name=NAME, **changes)
    save_network(written / "1" / "model.onnx", shape=("n", 3, SIZE, SIZE), seed=seed)
    return written


async def load(http: httpx.AsyncClient, folder: Path, version: int = 1) -> httpx.Response:
    """Store and load a model by files, which are those of its first version."""
    files = {
        f"file:{path}": base64.b64encode((folder / source).read_bytes()).decode()
        for path, source in (
            ("model.yaml", "model.yaml"),
            (f"{version}/model.onnx", "1/model.onnx"),
        )
    }
    return await http.post(f"/v2/repository/models/{NAME}/load", json={"parameters": files})


async def scores(http: httpx.AsyncClient, image: bytes) -> dict[str, float]:
    answer = await http.post(f"/v1/models/{NAME}/infer", params={"top_k": 4}, content=image)
    assert answer.status_code == 200, answer.text
    classes = Result.model_validate_json(answer.content).classes or ()
    return {one.label: one.score for one in classes}


def right(network: Path, image: bytes) -> dict[str, float]:
    """Return what ONNX Runtime says of an image that needs no resizing."""
    pixels = np.asarray(Image.open(BytesIO(image)), np.float32).transpose(2, 0, 1)[None] / 255
    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: pixels})[0]
    exponentials = np.exp(logits - logits.max())
    return dict(zip(LABELS, (exponentials / exponentials.sum()).tolist(), strict=True))


BROKEN: list[dict[str, Any]] = [
    {"instances": [{"device": "abacus"}]},
    {"output": {"decoder": "no_such_package:decoder"}},
]


@pytest.mark.parametrize("wrong", BROKEN, ids=["engine", "decoder"])
async def test_a_model_that_failed_is_loaded_from_repaired_files(
    http: httpx.AsyncClient, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    for _ in range(2):
        refused = await load(http, folder(tmp_path, **wrong))
        assert refused.status_code == 503, refused.text
        assert refused.json()["error"].endswith("[model_not_ready]")
        mended = await load(http, folder(tmp_path))
        assert mended.status_code == 200, mended.text
        await scores(http, picture())


async def test_weights_that_were_replaced_answer_at_once(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    image = picture(SIZE, SIZE, kind="PNG")
    for seed in range(1, 6):
        written = folder(tmp_path, seed)
        assert (await load(http, written)).status_code == 200
        expected = right(written / "1" / "model.onnx", image)
        assert await scores(http, image) == pytest.approx(expected, abs=1e-4)


async def test_old_weights_that_go_on_are_not_what_was_loaded(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    assert (await load(http, folder(tmp_path))).status_code == 200
    image = picture()
    before = await scores(http, image)
    refused = await load(http, folder(tmp_path, 1, **BROKEN[0]))
    assert refused.status_code == 503
    assert "abacus" in refused.json()["error"]
    assert await scores(http, image) == pytest.approx(before)


async def test_a_version_that_takes_the_place_of_a_broken_one_is_not_what_was_loaded(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    assert (await load(http, folder(tmp_path))).status_code == 200
    image = picture()
    before = await scores(http, image)
    refused = await load(http, folder(tmp_path, 1, **BROKEN[0]), version=2)
    assert refused.status_code == 503, refused.text
    assert "abacus" in refused.json()["error"]
    assert await scores(http, image) == pytest.approx(before)
    again = await http.post(f"/v2/repository/models/{NAME}/load")
    assert again.status_code == 200, "the first version answers"
