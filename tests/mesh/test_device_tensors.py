"""Who wants a network's outputs gets them also from a device, beside those who want results."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import cycle

import numpy as np
import pytest
from numpy.typing import NDArray

from services.ingest.gateway import Gateway
from tests.mesh.conftest import CLASSIFIER, SIZE
from tests.mesh.gateways import open_gateway
from tests.networks import expected
from visionmesh.contracts import PIXELS, Want
from visionmesh.events import Event
from visionmesh.local import LocalMesh
from visionmesh.tensors import describe

LABELS = ["ant", "bee", "cat", "dog"]
IMAGES = 60


@pytest.fixture
async def gateway(device_mesh: LocalMesh) -> AsyncIterator[Gateway]:
    async with open_gateway(device_mesh.settings) as gateway:
        yield gateway


def scores(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    planes = np.moveaxis(image, -1, 0)[None] / np.float32(255)
    (found,) = expected(planes.astype(np.float32), 0)
    return np.asarray(found)


async def test_each_gets_what_it_wants_whatever_else_is_in_its_batch(gateway: Gateway) -> None:
    random = np.random.default_rng(3)
    images = random.integers(0, 256, (IMAGES, SIZE, SIZE, 3), np.uint8)
    (meta,) = describe({PIXELS: images[0]})
    events = [
        Event(
            id=f"{number}",
            source="test",
            model=CLASSIFIER,
            image=image.tobytes(),
            tensor=meta,
            want=want,
        )
        for number, (image, want) in enumerate(zip(images, cycle(Want), strict=False))
    ]
    for event, image, reply in zip(events, images, await gateway.infer_all(events), strict=True):
        found, result = reply.tensors, reply.result()
        if event.want is Want.RESULT:
            assert found == {}
        else:
            np.testing.assert_allclose(found["scores"], scores(image), atol=1e-3)
        if event.want is Want.TENSORS:
            assert result.classes is None
        else:
            assert result.classes is not None
            assert result.classes[0].label == LABELS[int(np.argmax(scores(image)))]
