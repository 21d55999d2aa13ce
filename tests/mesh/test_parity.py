"""What the mesh serves is what ONNX Runtime, called directly, says of the same photos."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import yaml

from bench.baseline import Yolox
from bench.load import PHOTOS, photos
from bench.models import YOLOX, yolox_folder
from services.postprocess.decoders import DECODERS
from tests import heads
from tests.mesh.conftest import SETTINGS
from tests.mesh.readings import COMPARISONS, Reading
from visionmesh.client import Mesh
from visionmesh.contracts import Result, Status
from visionmesh.local import LocalMesh
from visionmesh.models.folder import load_folder
from visionmesh.workbench import Workbench

log = logging.getLogger(__name__)

pytestmark = pytest.mark.skipif(
    not (YOLOX.exists() and PHOTOS.exists()),
    reason="the trained network and the photos (../shared/data) are not here",
)

SCORE, PIXELS = 1e-4, 0.5
MOST = {
    "score": SCORE,
    "edge": PIXELS,
    "value": 1e-4,
    "grey": 1,
    # Scores of classes are kept in half precision, and prototypes of masks in 256 steps.
    "pixels": 1e-3,
    "doubt": 2e-3,
    "mask": 0.01,
    "likelihood": 0.02,
}
"""The largest differences of `readings`."""

TRAINED = "yolox-nano"


class Direct:
    """A session of one's own with a model's network."""

    def __init__(self, folder: Path) -> None:
        model = load_folder(folder)
        self._spec = model.spec
        self._bench = Workbench(model.spec)
        self._session = onnxruntime.InferenceSession(
            model.versions[1], providers=["CPUExecutionProvider"]
        )
        self._names = [output.name for output in self._session.get_outputs()]

    def read(self, image: bytes) -> Reading:
        sample, size = self._bench.sample(image), self._spec.input
        planes = (sample.pixels * size.scale).astype(np.float32).transpose(2, 0, 1)
        outputs = self._session.run(None, {self._session.get_inputs()[0].name: planes[None]})
        named = zip(self._names, outputs, strict=True)
        own = {name: output[0].astype(np.float64) for name, output in named}
        return Reading(self._spec, own, sample.facts)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model folder for each decoder, and the trained one."""
    root = tmp_path_factory.mktemp("parity")
    found = {TRAINED: yolox_folder(root, name=TRAINED)}
    for decoder, family in heads.FAMILIES.items():
        folder = found[decoder] = root / decoder
        folder.mkdir()
        heads.save(folder / "1" / "model.onnx", family())
        spec = heads.describe(decoder).model_dump(mode="json", exclude={"name"})
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


async def served(mesh: Mesh, model: str, images: list[bytes]) -> list[Result]:
    """Return the results of images that are all in flight at once, each computed."""
    results = await asyncio.gather(*(mesh.infer(model, image) for image in images))
    for result in results:
        assert result.status is Status.OK, result
        assert not (result.cache and result.cache.hit)
    return results


@pytest.mark.parametrize("decoder", sorted(DECODERS))
async def test_every_decoder_says_of_80_photos_what_the_runtimes_outputs_say(
    mesh: Mesh, folders: dict[str, Path], decoder: str
) -> None:
    images, direct = photos(), Direct(folders[decoder])
    results = await served(mesh, decoder, images)
    pngs = await asyncio.gather(*map(mesh.heatmap, results))
    largest: dict[str, float] = {}
    for image, result, png in zip(images, results, pngs, strict=True):
        differences = COMPARISONS[decoder](result, direct.read(image), png)
        for name, value in differences.items():
            largest[name] = max(value, largest.get(name, 0.0))
    log.info("%s differs by at most %s", decoder, largest)
    assert not {name: value for name, value in largest.items() if not value <= MOST[name]}
    answers = {result.model_dump_json(include=set(result.recognised())) for result in results}
    assert len(answers) > len(images) / 2, "the photos are told apart"


async def test_a_trained_detector_says_what_an_independent_reading_of_its_outputs_says(
    mesh: Mesh, folders: dict[str, Path]
) -> None:
    images, direct = photos(), Direct(folders[TRAINED])
    spec = load_folder(folders[TRAINED]).spec
    reader = Yolox(width=spec.input.width, height=spec.input.height)
    told, largest = 0, np.zeros(5)
    for image, result in zip(images, await served(mesh, TRAINED, images), strict=True):
        reading = direct.read(image)
        found = reader.detect(reading.only.astype(np.float32), reading.facts)
        sure = [row for row in found.tolist() if row[4] >= spec.output.confidence]
        sure.sort(key=lambda row: -row[4])
        seen = result.detections or ()
        assert [one.label for one in seen] == [spec.labels[int(row[5])] for row in sure]
        for one, row in zip(seen, sure, strict=True):
            largest = np.maximum(largest, np.abs(np.subtract((*one.box, one.score), row[:5])))
        told += len(seen)
    log.info("%s differs by at most %s", TRAINED, largest.tolist())
    assert (largest <= (*[PIXELS] * 4, SCORE)).all()
    assert told > len(images)
