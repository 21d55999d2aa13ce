"""A mesh whose pixels and tensors stay on a device says what a mesh without one says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests import heads
from tests.gpu_device import DEVICE
from tests.mesh.conftest import serving
from tests.mesh.measured import measured
from tests.polling import until
from visionmesh.client import Mesh
from visionmesh.contracts import Params, Result, Status
from visionmesh.local import LocalMesh

LABELS = 3
DETECTORS, CLASSIFIER = ("yolov8", "yolov5", "yolox"), "softmax"
IMAGES = 24
PARAMS = Params(confidence=0.2, iou=0.6)
SURE = 0.3
"""What scores so much is seen by both, even if their pixels differ by a grey level."""
EQUAL = DEVICE == "emulated"
"""Whether the device's JPEG decoder and exponentials are the CPU's, too."""

Results = dict[str, list[Result]]


def crowded(decoder: str) -> heads.Outputs:
    """Return a network that tells of many boxes, which cover each other, by an image's greyness."""
    random = np.random.default_rng(7)
    objectness = decoder != "yolov8"
    count = {"yolov8": 126, "yolov5": 378, "yolox": 126}[decoder]
    output = heads.Head(count, 4 + objectness + LABELS)
    output.base[:, :2] = random.uniform((0, 0), (heads.WIDTH, heads.HEIGHT), (count, 2))
    output.base[:, 2:4] = random.uniform(10, 40, (count, 2))
    if decoder == "yolox":
        output.base[:, :2] = random.uniform(0, 1, (count, 2))
        output.base[:, 2:4] = random.uniform(-0.5, 1, (count, 2))
    output.base[:, 4:] = random.uniform(0, 0.5, (count, objectness + LABELS))
    output.slope[:, 4:] = random.uniform(-0.4, 0.5, (count, objectness + LABELS)).clip(
        -output.base[:, 4:]
    )
    if not objectness:
        output.base, output.slope = output.base.T, output.slope.T
        output.shape = output.shape[::-1]
    return {"output": output}


def write_models(root: Path, device: str) -> list[Path]:
    """Write a folder for each decoder, whose network runs on ``device``."""
    folders: list[Path] = []
    for decoder in (*DETECTORS, CLASSIFIER):
        folder = root / decoder
        folder.mkdir(parents=True)
        network = heads.FAMILIES[decoder]() if decoder == CLASSIFIER else crowded(decoder)
        heads.save(folder / "1" / "model.onnx", network)
        spec = heads.describe(decoder).model_dump(mode="json", exclude={"name"})
        if decoder != CLASSIFIER:
            spec["labels"] = spec["labels"][:LABELS]
        spec["instances"] = [{"device": device}]
        (folder / "model.yaml").write_text(yaml.safe_dump(spec))
        folders.append(folder)
    return folders


def pictures() -> list[bytes]:
    """Return JPEGs of several sizes, from dark to bright."""
    random, found = np.random.default_rng(8), []
    for number in range(IMAGES):
        height, width = random.integers(40, 200, 2)
        noise = random.normal(0, 30, (height, width, 3))
        pixels = np.clip(noise + 255 * number / IMAGES, 0, 255).astype(np.uint8)
        file = BytesIO()
        Image.fromarray(pixels).save(file, "JPEG")
        found.append(file.getvalue())
    return found


async def results_of(client: Mesh) -> Results:
    """Return what a mesh says of all pictures, which are all in flight at once."""
    found: Results = {}
    for model in (*DETECTORS, CLASSIFIER):
        params = None if model == CLASSIFIER else PARAMS
        found[model] = await asyncio.gather(
            *(client.infer(model, picture, params=params) for picture in pictures())
        )
    return found


@pytest.fixture(scope="module")
async def usual(local_mesh: LocalMesh, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What a mesh says that knows of no device."""
    models = write_models(tmp_path_factory.mktemp("usual"), "cpu")
    async with serving(local_mesh, models) as client:
        return await results_of(client)


@pytest.fixture(scope="module")
async def mesh(
    device_mesh: LocalMesh, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Mesh]:
    models = write_models(tmp_path_factory.mktemp("device"), DEVICE)
    async with serving(device_mesh, models) as client:
        yield client


@pytest.fixture(scope="module")
async def results(mesh: Mesh) -> Results:
    return await results_of(mesh)


@pytest.mark.parametrize("model", [*DETECTORS, CLASSIFIER])
def test_results_are_those_of_a_mesh_without_a_device(
    usual: Results, results: Results, model: str
) -> None:
    for expected, result in zip(usual[model], results[model], strict=True):
        assert (expected.status, result.status) == (Status.OK, Status.OK)
        assert result.image == expected.image
        if EQUAL:
            assert result.recognised() == expected.recognised()
        elif result.detections is not None:
            alike(result, expected)
    assert len({str(result.recognised()) for result in results[model]}) > IMAGES / 2


def alike(result: Result, expected: Result) -> None:
    """Assert that what is clearly seen is seen by both."""
    for one, other in ((result, expected), (expected, result)):
        sure = [
            seen for seen in one.detections or () if seen.score > (PARAMS.confidence or 0) + 0.05
        ]
        boxes = [(seen.label, seen.box) for seen in other.detections or ()]
        for seen in sure:
            assert any(
                label == seen.label and box == pytest.approx(seen.box, abs=0.5)
                for label, box in boxes
            )


async def test_outputs_of_detectors_stay_on_the_device_and_others_come_home(
    mesh: Mesh, results: Results
) -> None:
    for model in (*DETECTORS, CLASSIFIER):
        line = f'visionmesh_device_images_total{{model="{model}",outcome='
        counted = await measured(mesh, "postprocess", f'{line}"reduced"')
        assert counted.total() == (0 if model == CLASSIFIER else IMAGES)
        assert counted.total() == (await measured(mesh, "postprocess", line)).total()


@pytest.mark.parametrize("stage", ["preprocess", "infer"])
async def test_stages_write_to_the_device_and_get_their_room_back(
    mesh: Mesh, results: Results, stage: str
) -> None:
    arena = "visionmesh_device_arena_{}_bytes"
    capacity = await measured(mesh, stage, arena.format("capacity"))
    assert capacity.total() > 0

    async def given_back() -> bool:
        return (await measured(mesh, stage, arena.format("used"))).total() == 0

    await until(given_back)


async def test_another_confidence_is_answered_from_the_features_that_came_home(
    mesh: Mesh, results: Results
) -> None:
    first, *_ = pictures()
    sure = await mesh.infer("yolov8", first, params=Params(confidence=0.5, iou=0.6))
    assert sure.cache is not None
    assert sure.cache.level == "features"
    wanted = [one for one in results["yolov8"][0].detections or () if one.score >= 0.5]
    assert list(sure.detections or ()) == wanted
