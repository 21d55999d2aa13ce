"""Models whose answers speak of each pixel: their masks and heat-maps reach who asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from io import BytesIO

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.mesh.brightness import NAME, spotted, write_brightness
from tests.mesh.conftest import serving
from visionmesh import BlockingMesh, rle
from visionmesh.bus import Connection
from visionmesh.client import Mesh
from visionmesh.contracts import Result, Status
from visionmesh.heatmaps import BUCKET
from visionmesh.local import LocalMesh


@pytest.fixture(scope="module")
async def inspector(
    local_mesh: LocalMesh, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Mesh]:
    """A client of the mesh while the model is pushed."""
    async with serving(local_mesh, [write_brightness(tmp_path_factory.mktemp("models"))]) as client:
        yield client


def check(result: Result, png: bytes | None, bright: NDArray[np.bool_], background: int) -> None:
    assert result.status is Status.OK
    assert result.classes is not None
    assert [one.label for one in result.classes] == ["bad", "good"]
    assert result.regions is not None
    mask = rle.decode(result.regions[0].mask)
    assert mask.shape == bright.shape
    # An edge lies between two cells of four pixels each.
    core = cv2.erode(bright.astype(np.uint8), np.ones((5, 5))) > 0
    around = cv2.dilate(bright.astype(np.uint8), np.ones((5, 5))) > 0
    assert mask[core].all()
    assert not mask[~around].any()
    assert png is not None
    heat = np.asarray(Image.open(BytesIO(png)))
    assert heat.shape == (16, 32), "without the letterbox's white padding"
    assert abs(int(heat[0, 0]) - background) <= 1
    assert abs(int(heat[7, 22]) - 250) <= 1


async def test_a_heat_map_can_be_fetched_with_its_result(inspector: Mesh) -> None:
    image, bright = spotted(1)
    first = await inspector.infer(NAME, image)
    check(first, await inspector.heatmap(first), bright, 21)
    again = await inspector.infer(NAME, image)
    assert again.cache is not None
    assert again.cache.hit
    assert again.heatmap == first.heatmap
    check(again, await inspector.heatmap(again), bright, 21)


async def test_a_lost_bucket_loses_no_result(inspector: Mesh, local_mesh: LocalMesh) -> None:
    image, bright = spotted(2)
    await inspector.infer(NAME, spotted(3)[0])
    connection = await Connection.open(local_mesh.nats_url, name="vandal")
    await connection.client.jetstream().delete_stream(f"OBJ_{BUCKET}")
    await connection.close()
    result = await inspector.infer(NAME, image)
    check(result, await inspector.heatmap(result), bright, 22)


async def test_the_blocking_client_fetches_it_too(inspector: Mesh, local_mesh: LocalMesh) -> None:
    image, bright = spotted(4)

    def script() -> None:
        with BlockingMesh(local_mesh.nats_url) as mesh:
            result = mesh.infer(NAME, image)
            check(result, mesh.heatmap(result), bright, 24)

    await asyncio.to_thread(script)


async def test_other_results_have_none(inspector: Mesh) -> None:
    assert (
        await inspector.heatmap(Result(id="1", source="s", model=NAME, status=Status.EXPIRED))
        is None
    )
