"""What people do with models by the protocols."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from services.ingest.models import Models
from tests.networks import save_folder
from visionmesh import subjects
from visionmesh.context import Context, open_context
from visionmesh.contracts import Params
from visionmesh.errors import Code, Refused, Reject, VisionmeshError
from visionmesh.settings import MEBIBYTE, IngestSettings, Settings

NAME, COPY = "wired", "wired-copy"


@pytest.fixture
async def context(nats_url: str, tmp_path: Path) -> AsyncIterator[Context]:
    settings = Settings(
        nats_url=nats_url, state_dir=tmp_path, shm_dir=tmp_path,
        ingest=IngestSettings(arena_bytes=MEBIBYTE),
    )  # fmt: skip
    async with open_context(settings, stage="ingest", stream=subjects.EVENTS) as context:
        yield context


@pytest.fixture
async def models(context: Context) -> AsyncIterator[Models]:
    models = Models(context=context)
    yield models
    for record in await models.list():
        if record.spec.name in (NAME, COPY):
            await models.delete(record.spec.name)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path | bytes]:
    """A folder of two versions, in part read already."""
    folder = save_folder(tmp_path / "folder", versions=(1, 2))
    return {
        "model.yaml": (folder / "model.yaml").read_bytes(),
        "1/model.onnx": folder / "1" / "model.onnx",
        "2/model.onnx": folder / "2" / "model.onnx",
    }


async def test_a_model_is_made_of_files(models: Models, files: Mapping[str, Path | bytes]) -> None:
    record = await models.create(NAME, files)
    assert await models.show(NAME) == record
    assert sorted(record.versions) == [1, 2]

    again = await models.create(NAME, {**files, "2/model.onnx": files["1/model.onnx"]})
    assert again.versions[2].sha256 == record.versions[1].sha256


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"../model.yaml": b""}, Code.INVALID_REQUEST),
        ({"/model.yaml": b""}, Code.INVALID_REQUEST),
        ({"": b""}, Code.INVALID_REQUEST),
        ({"1\\model.onnx": b""}, Code.INVALID_REQUEST),
        ({"model.yaml/1": b""}, Code.INVALID_REQUEST),
        ({"1": b""}, Code.INVALID_REQUEST),
        ({"model.yaml": b"task: none"}, Code.MODEL_INVALID),
        ({"1/model.onnx": b"no network"}, Code.MODEL_INVALID),
    ],
)
async def test_files_that_are_no_model_are_refused(
    models: Models, files: Mapping[str, Path | bytes], more: dict[str, Path | bytes], code: Code
) -> None:
    with pytest.raises(Reject) as refused:
        await models.create(NAME, {**files, **more})
    assert refused.value.code is code
    with pytest.raises(Refused):
        await models.show(NAME)


async def test_a_worker_that_cannot_check_networks_says_so(
    models: Models, files: Mapping[str, Path | bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(VisionmeshError, match=r"onnxruntime.*visionmesh push"):
        await models.create(NAME, files)


async def test_a_copy_has_settings_of_its_own(
    models: Models, files: Mapping[str, Path | bytes]
) -> None:
    record = await models.create(NAME, files)
    copy = await models.copy(NAME, COPY, params=Params(top_k=2))
    assert (copy.spec.name, copy.spec.output.top_k) == (COPY, 2)
    assert {version.output.top_k for version in copy.versions.values()} == {2}
    assert await models.show(NAME) == record

    one = await models.copy(NAME, COPY, version=1)
    assert (list(one.versions), one.shares) == ([1], {1: 1.0})
    with pytest.raises(Refused):
        await models.copy(NAME, COPY, version=7)


async def test_a_version_that_gets_images_is_not_deleted_alone(
    models: Models, files: Mapping[str, Path | bytes]
) -> None:
    await models.create(NAME, files)
    with pytest.raises(Refused):
        await models.delete(NAME, version=2)
    await models.delete(NAME, version=1)
    assert list((await models.show(NAME)).versions) == [2]


async def test_loading_fails_where_nobody_loads(
    models: Models, files: Mapping[str, Path | bytes]
) -> None:
    await models.create(NAME, files)
    assert (await models.unload(NAME)).parked
    record = await models.unpark(NAME)
    with pytest.raises(Refused) as refused:
        await models.wait_until_loaded(record, within=timedelta(milliseconds=10))
    assert refused.value.code is Code.MODEL_NOT_READY
    assert not (await models.show(NAME)).parked
