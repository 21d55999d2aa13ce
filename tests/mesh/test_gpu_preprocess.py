"""Images that are prepared on a GPU are answered as those that are prepared on the CPU."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from tests import heads
from tests.gpu_device import DEVICE
from tests.mesh.conftest import CLASSIFIER, serving, write_classifier
from tests.mesh.measured import measured
from tests.services.preprocess.kinds import ALL_KINDS, PHOTO
from tests.services.preprocess.pictures import encode, photo
from visionmesh.client import Mesh
from visionmesh.contracts import Result, Status
from visionmesh.local import LocalMesh

DETECTOR, FAR = "detector", "far"
SCORE = 1e-4 if DEVICE == "emulated" else 0.02
"""How much scores may differ: the emulated device's JPEG decoder is the CPU's."""
IMAGES = {
    **ALL_KINDS,
    "larger jpeg": encode(photo(1400, 900), "JPEG"),
    "broken jpeg": PHOTO[:2000],
    "broken png": ALL_KINDS["png"][:-300],
    "nothing known": b"no image",
}


def write_models(root: Path) -> list[Path]:
    """Write a detector and a classifier whose engines are on the CPU."""
    folder = root / DETECTOR
    folder.mkdir()
    heads.save(folder / "1" / "model.onnx", heads.FAMILIES["yolov8"]())
    spec = heads.describe("yolov8").model_dump(mode="json", exclude={"name"})
    spec["cache"] = {"enabled": False}
    (folder / "model.yaml").write_text(yaml.safe_dump(spec))
    return [folder, write_classifier(root, name=FAR, cache=spec["cache"])]


@pytest.fixture(scope="module")
async def meshes(
    local_mesh: LocalMesh, device_mesh: LocalMesh, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Mesh, Mesh]]:
    """One that prepares on the CPU, one that does so on a GPU."""
    models = write_models(tmp_path_factory.mktemp("models"))
    async with serving(local_mesh, models) as by_cpu, serving(device_mesh, models) as by_gpu:
        yield by_cpu, by_gpu


async def answers(mesh: Mesh, model: str) -> list[Result]:
    return await asyncio.gather(*(mesh.infer(model, image) for image in IMAGES.values()))


@pytest.mark.parametrize("model", [DETECTOR, FAR, CLASSIFIER])
async def test_every_kind_of_image_has_the_same_answer(
    meshes: tuple[Mesh, Mesh], model: str
) -> None:
    expected, found = [await answers(mesh, model) for mesh in meshes]
    for name, one, other in zip(IMAGES, expected, found, strict=True):
        assert (one.status, one.image) == (other.status, other.image), name
        if one.status is not Status.OK:
            assert one.error == other.error, name
            continue
        assert [c.label for c in one.classes or ()] == [c.label for c in other.classes or ()], name
        for mine, its in zip(one.classes or (), other.classes or (), strict=True):
            assert mine.score == pytest.approx(its.score, abs=SCORE), name
        for box, its_box in zip(one.detections or (), other.detections or (), strict=True):
            assert box.label == its_box.label
            assert box.box == pytest.approx(its_box.box, abs=0.5)
            assert box.score == pytest.approx(its_box.score, abs=SCORE)
    refused = [name for name, one in zip(IMAGES, found, strict=True) if one.status is Status.ERROR]
    assert refused == ["broken jpeg", "broken png", "nothing known"]
    assert sum(bool(one.classes or one.detections) for one in found) > len(IMAGES) / 2


async def test_where_images_are_decoded_is_counted(meshes: tuple[Mesh, Mesh]) -> None:
    counted = 'visionmesh_decoded_total{where="host",why="format"}'
    by_cpu, by_gpu = meshes
    before = await measured(by_gpu, "preprocess", counted)
    await by_gpu.infer(FAR, IMAGES["webp"])
    assert (await measured(by_gpu, "preprocess", counted) - before).total() == 1
    assert not (await measured(by_cpu, "preprocess", "visionmesh_decoded_total")).total()
