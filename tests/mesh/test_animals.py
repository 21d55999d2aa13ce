"""A detector trained on COCO finds the animals that the names of the photos tell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bench.load import PHOTOS
from bench.models import YOLOX, yolox_folder
from tests.mesh.conftest import SETTINGS
from visionmesh.client import Mesh
from visionmesh.contracts import Result, Status
from visionmesh.local import LocalMesh

pytestmark = pytest.mark.skipif(
    not (YOLOX.exists() and PHOTOS.exists()),
    reason="the trained network and the photos (../shared/data) are not here",
)

ANIMALS = {
    "n01514859_hen": "bird",
    "n01622779_great_grey_owl": "bird",
    "n02002556_white_stork": "bird",
    "n02033041_dowitcher": "bird",
    "n02085620_Chihuahua": "dog",
    "n02086240_Shih-Tzu": "dog",
    "n02087046_toy_terrier": "dog",
    "n02091831_Saluki": "dog",
    "n02092339_Weimaraner": "dog",
    "n02095314_wire-haired_fox_terrier": "dog",
    "n02097047_miniature_schnauzer": "dog",
    "n02100236_German_short-haired_pointer": "dog",
    "n02105505_komondor": "dog",
    "n02105855_Shetland_sheepdog": "dog",
    "n02110063_malamute": "dog",
    "n02112018_Pomeranian": "dog",
    "n02113712_miniature_poodle": "dog",
}
"""The photos of animals that COCO has a class for, and that class."""
SHARE = 0.85
"""Of the photos, in which the animal must be found."""


@pytest.fixture(scope="module")
async def detector(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """A client of a mesh that serves YOLOX-nano."""
    root = tmp_path_factory.mktemp("animals")
    model = yolox_folder(root / "models")
    async with (
        LocalMesh(state=root / "state", settings=SETTINGS, models=[model]) as running,
        Mesh(running.nats_url) as mesh,
    ):
        yield mesh


def labels(result: Result) -> set[str]:
    assert result.status is Status.OK, result
    assert result.detections is not None
    return {detection.label for detection in result.detections}


async def recognise(mesh: Mesh, photos: list[Path]) -> dict[str, Result]:
    """Return the result of each photo by its name without the suffix."""
    results = await asyncio.gather(*(mesh.infer("yolox-nano", photo) for photo in photos))
    return {photo.stem: result for photo, result in zip(photos, results, strict=True)}


async def test_finds_the_animals(detector: Mesh) -> None:
    results = await recognise(detector, [PHOTOS / f"{name}.jpg" for name in ANIMALS])
    found = {name: labels(result) for name, result in results.items()}
    missed = {name: found[name] for name, animal in ANIMALS.items() if animal not in found[name]}
    for name, others in missed.items():
        print(f"no {ANIMALS[name]} in {name}, but {sorted(others)}")  # noqa: T201 - what pytest shows
    assert len(missed) <= (1 - SHARE) * len(ANIMALS), missed


async def test_boxes_lie_within_their_photos(detector: Mesh) -> None:
    for name, result in (await recognise(detector, sorted(PHOTOS.glob("*.jpg")))).items():
        assert result.image is not None
        for detection in result.detections or ():
            x1, y1, x2, y2 = detection.box
            assert 0 <= x1 < x2 <= result.image.width, (name, detection)
            assert 0 <= y1 < y2 <= result.image.height, (name, detection)
