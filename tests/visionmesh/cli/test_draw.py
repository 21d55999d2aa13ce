"""Heat-maps on the pictures that `visionmesh run --draw` writes."""

from __future__ import annotations

from pathlib import Path

import cv2
import nats
import numpy as np
import pytest

from tests.mesh.brightness import NAME, spotted, write_brightness
from tests.visionmesh.cli.conftest import Finished, Run
from visionmesh.heatmaps import BUCKET
from visionmesh.local import LocalMesh

TILES = sorted((Path(__file__).parents[4] / "shared/data/magnetic-tile/uneven").glob("*.jpg"))[:2]


@pytest.fixture
async def inspect(visionmesh: Run, tmp_path: Path) -> Run:
    """Push the model that takes brightness for a flaw, and run it over images, drawn."""
    assert (await visionmesh("push", write_brightness(tmp_path / "models"))).status == 0

    async def run(*images: str | Path) -> Finished:
        return await visionmesh("run", NAME, *images, "--draw", tmp_path / "drawn")

    return run


async def test_heat_maps_are_fetched_and_drawn(inspect: Run, tmp_path: Path) -> None:
    image, bright = spotted(7)
    (tmp_path / "board.png").write_bytes(image)
    finished = await inspect(tmp_path / "board.png")
    assert (finished.status, finished.err) == (0, "")
    assert " bad " in finished.out
    drawn = cv2.imread(str(tmp_path / "drawn" / "board.jpg"))
    assert drawn is not None
    assert drawn.shape[0] > bright.shape[0] + 20, "caption and legend have room of their own"
    blue, _, red = cv2.split(drawn.astype(int))
    assert (red - blue > 60).sum() > bright.sum() / 2, "the bright square glows"


@pytest.mark.skipif(not TILES, reason="the photos of magnetic tiles (../shared/data) are not here")
async def test_real_photos_are_drawn(inspect: Run, tmp_path: Path) -> None:
    finished = await inspect(*TILES)
    assert (finished.status, finished.err) == (0, "")
    for tile in TILES:
        drawn, photo = cv2.imread(str(tmp_path / "drawn" / tile.name)), cv2.imread(str(tile))
        assert drawn is not None
        assert photo is not None
        assert drawn.shape[1] == photo.shape[1]
        assert drawn.shape[0] > photo.shape[0]


async def test_a_lost_heat_map_is_told_and_the_rest_is_drawn(
    inspect: Run, running: LocalMesh, tmp_path: Path
) -> None:
    image, bright = spotted(8)
    (tmp_path / "board.png").write_bytes(image)
    assert (await inspect(tmp_path / "board.png")).status == 0
    client = await nats.connect(running.nats_url)
    await client.jetstream().purge_stream(f"OBJ_{BUCKET}")
    await client.close()
    # The result comes from the cache: nobody computes the heat-map again.
    finished = await inspect(tmp_path / "board.png")
    assert "without its heat-map" in finished.err
    drawn = cv2.imread(str(tmp_path / "drawn" / "board.jpg"))
    assert drawn is not None
    assert drawn.shape[:2] == bright.shape
    assert np.ptp(drawn) > 50
