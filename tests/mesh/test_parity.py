"""What the mesh serves is what ONNX Runtime, called directly, says of the same photos."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import yaml

from bench.baseline import Yolox
from bench.load import PHOTOS, photos
from bench.models import YOLOX, yolox_folder
from tests.mesh.conftest import SETTINGS
from tests.services.postprocess.decoders import test_networks as networks
from visionmesh.client import Mesh
from visionmesh.contracts import Answer, Params, Result, Status
from visionmesh.local import LocalMesh
from visionmesh.models.folder import load_folder
from visionmesh.workbench import Workbench

pytestmark = pytest.mark.skipif(
    not (YOLOX.exists() and PHOTOS.exists()),
    reason="the trained network and the photos (../shared/data) are not here",
)

HEADS = {
    "yolov8": networks.yolov8,
    "yolov5": networks.yolov5,
    "yolox": networks.yolox,
    "obb": networks.obb,
    "end2end": networks.yolov10,
    "ssd": networks.ssd,
    "detr": networks.rt_detr,
}
SCORE, PIXELS = 1e-4, 0.5
TRAINED = "yolox-nano"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model folder for each head, and the trained one."""
    root = tmp_path_factory.mktemp("parity")
    found = {TRAINED: yolox_folder(root, name=TRAINED)}
    for decoder, heads in HEADS.items():
        folder = found[decoder] = root / decoder
        folder.mkdir()
        networks.save(folder / "1" / "model.onnx", heads())
        spec = networks.describe(decoder).model_dump(mode="json", exclude={"name"})
        (folder / "model.yaml").write_text(yaml.safe_dump(spec))
    return found


@pytest.fixture(scope="module")
async def mesh(
    folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Mesh]:
    state, models = tmp_path_factory.mktemp("state"), list(folders.values())
    async with (
        LocalMesh(state=state, settings=SETTINGS, models=models) as running,
        Mesh(running.nats_url) as client,
    ):
        yield client


def direct(folder: Path, image: bytes) -> Answer:
    """Return what the decoder makes of the outputs of a session of one's own."""
    model = load_folder(folder)
    bench = Workbench(model.spec)
    session = onnxruntime.InferenceSession(model.versions[1], providers=["CPUExecutionProvider"])
    sample = bench.sample(image)
    tensor = np.array(bench.tensor([sample]))
    names = [output.name for output in session.get_outputs()]
    outputs = session.run(names, {session.get_inputs()[0].name: tensor})
    return bench.read(dict(zip(names, outputs, strict=True)), 0, sample, Params())


def rows(answer: Answer | Result) -> list[tuple[str, float, tuple[float, ...]]]:
    return [(found.label, found.score, found.box) for found in answer.detections or ()]


@pytest.mark.parametrize("decoder", sorted(HEADS))
async def test_every_decoder_says_of_80_photos_what_the_runtime_says(
    mesh: Mesh, folders: dict[str, Path], decoder: str
) -> None:
    images = photos()
    results = await asyncio.gather(*(mesh.infer(decoder, image) for image in images))
    told = 0
    for image, result in zip(images, results, strict=True):
        assert result.status is Status.OK, result
        expected, seen = rows(direct(folders[decoder], image)), rows(result)
        assert [row[0] for row in seen] == [row[0] for row in expected]
        for (_, score, box), (_, expected_score, expected_box) in zip(seen, expected, strict=True):
            assert score == pytest.approx(expected_score, abs=SCORE)
            assert box == pytest.approx(expected_box, abs=PIXELS)
        told += len(seen)
    assert told > len(images) / 2


async def test_a_trained_detector_says_what_an_independent_reading_of_its_outputs_says(
    mesh: Mesh, folders: dict[str, Path]
) -> None:
    model = load_folder(folders[TRAINED])
    bench, size = Workbench(model.spec), model.spec.input
    session = onnxruntime.InferenceSession(model.versions[1], providers=["CPUExecutionProvider"])
    reader = Yolox(width=size.width, height=size.height)
    images = photos()
    results = await asyncio.gather(*(mesh.infer(TRAINED, image) for image in images))
    told = 0
    for image, result in zip(images, results, strict=True):
        sample = bench.sample(image)
        (output,) = session.run(None, {"images": np.array(bench.tensor([sample]))})
        sure = [row for row in reader.detect(output[0], sample.facts) if row[4] >= 0.3]
        expected = sorted(((row[4], tuple(row[:4])) for row in sure), reverse=True)
        seen = sorted(((score, box) for _, score, box in rows(result)), reverse=True)
        assert len(seen) == len(expected)
        for (score, box), (expected_score, expected_box) in zip(seen, expected, strict=True):
            assert score == pytest.approx(expected_score, abs=SCORE)
            assert box == pytest.approx(expected_box, abs=PIXELS)
        told += len(seen)
    assert told > len(images)
