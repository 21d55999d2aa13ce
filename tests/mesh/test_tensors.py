"""Pixels and tensors in, the network's outputs out: what callers of other protocols send."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from io import BytesIO
from itertools import count
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image

from services.infer.pixels import PixelWriter
from services.ingest.callers import Reply
from services.ingest.gateway import Gateway
from tests.mesh.conftest import CLASSIFIER, SIZE
from tests.mesh.gateways import open_gateway
from tests.polling import until
from visionmesh.client import Mesh
from visionmesh.contracts import PIXELS, Want
from visionmesh.errors import Code, Refused, Reject
from visionmesh.events import Event
from visionmesh.local import LocalMesh
from visionmesh.models.registry import Registry
from visionmesh.models.spec import InputSpec
from visionmesh.tensors import describe

Array = NDArray[np.generic]


@pytest.fixture(params=["here", "elsewhere"])
async def gateway(request: pytest.FixtureRequest, local_mesh: LocalMesh) -> AsyncIterator[Gateway]:
    """A second access layer, on the mesh's node or on another one."""
    settings = local_mesh.settings
    if request.param == "elsewhere":
        settings = settings.model_copy(update={"node": "elsewhere"})
    async with open_gateway(settings) as gateway:
        yield gateway


_numbers = count()


def pixels(*, width: int = 64, height: int = 48) -> NDArray[np.uint8]:
    """Return an image that no other call returns."""
    random = np.random.default_rng(next(_numbers))
    return random.integers(0, 256, (height, width, 3), np.uint8)


def as_png(image: NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def event_of(array: Array, *, name: str = PIXELS, want: Want = Want.RESULT) -> Event:
    (meta,) = describe({name: array})
    body = np.ascontiguousarray(array).tobytes()
    return Event(id="tensor", source="test", model=CLASSIFIER, image=body, tensor=meta, want=want)


async def test_pixels_are_recognised_as_the_same_image_encoded(
    gateway: Gateway, mesh: Mesh
) -> None:
    image = pixels()
    encoded = await mesh.infer(CLASSIFIER, as_png(image))
    given = (await gateway.infer(event_of(image))).result()
    assert given.classes == encoded.classes
    assert given.image is not None
    assert (given.image.width, given.image.height) == (64, 48)

    async def remembered() -> bool:
        cache = (await gateway.infer(event_of(image))).result().cache
        return cache is not None and cache.hit

    await until(remembered)
    turned = (await gateway.infer(event_of(image.reshape(64, 48, 3)))).result()
    assert turned.cache is not None
    assert not turned.cache.hit, "the same bytes in another shape are another image"


async def test_outputs_are_those_of_the_runtime_called_directly(
    gateway: Gateway, local_mesh: LocalMesh, tmp_path: Path
) -> None:
    session, spec, name = await runtime(gateway, tmp_path)
    own = prepared(pixels(width=SIZE, height=SIZE), spec)
    (direct,) = session.run(None, {name: own[None]})
    reply = await gateway.infer(event_of(own, name=name, want=Want.TENSORS))
    assert_outputs(reply, session, [direct])
    assert reply.result().classes is None
    both = await gateway.infer(event_of(own, name=name, want=Want.BOTH))
    assert_outputs(both, session, [direct])
    classes = both.result().classes
    assert classes is not None
    assert len(classes) == 2
    only = await gateway.infer(event_of(own, name=name))
    assert only.result().classes == classes
    assert only.tensors == {}


async def test_outputs_of_encoded_images_and_of_pixels_agree(gateway: Gateway) -> None:
    image = pixels()
    encoded = Event(id="e", source="test", model=CLASSIFIER, image=as_png(image), want=Want.TENSORS)
    first = await gateway.infer(encoded)
    second = await gateway.infer(event_of(image, want=Want.TENSORS))
    assert first.tensors.keys() == second.tensors.keys() != set()
    for output, array in first.tensors.items():
        np.testing.assert_array_equal(array, second.tensors[output])


async def test_many_images_are_answered_in_their_order(gateway: Gateway) -> None:
    events = [
        replace(event_of(pixels(), want=Want.BOTH), id=f"many-{number}") for number in range(40)
    ]
    replies = await gateway.infer_all(events)
    assert [reply.result().id for reply in replies] == [event.id for event in events]
    for reply in replies:
        (scores,) = reply.tensors.values()
        best = reply.result().classes or ()
        assert ["ant", "bee", "cat", "dog"].index(best[0].label) == int(np.argmax(scores))


@pytest.mark.parametrize(
    ("array", "name", "code"),
    [
        (np.zeros((4, 4), np.uint8), PIXELS, Code.INVALID_REQUEST),
        (np.zeros((4, 4, 4), np.uint8), PIXELS, Code.INVALID_REQUEST),
        (np.zeros((4, 4, 3), np.float32), PIXELS, Code.INVALID_REQUEST),
        (np.zeros((0, 4, 3), np.uint8), PIXELS, Code.IMAGE_EMPTY),
        (np.zeros((3, SIZE, SIZE), np.float16), "x", Code.INVALID_REQUEST),
        (np.zeros((3, SIZE, SIZE + 1), np.float32), "x", Code.INVALID_REQUEST),
        (np.zeros((SIZE, SIZE, 3), np.float32), "x", Code.INVALID_REQUEST),
    ],
)
async def test_a_tensor_that_does_not_fit_is_refused(
    gateway: Gateway, array: Array, name: str, code: Code
) -> None:
    event = (
        event_of(array, name=name)
        if array.size
        else replace(event_of(array, name=name), image=b"x")
    )
    with pytest.raises(Reject) as refused:
        await gateway.infer(event)
    assert refused.value.code is code


async def test_a_body_that_is_longer_or_shorter_is_refused(gateway: Gateway) -> None:
    event = event_of(pixels())
    for body in (event.image[:-1], event.image + b"x"):
        with pytest.raises(Reject, match="bytes came, not"):
            await gateway.infer(replace(event, image=body))


async def test_a_version_can_be_asked_for(gateway: Gateway) -> None:
    reply = await gateway.infer(event_of(pixels()), version=1)
    assert reply.result().version == 1
    with pytest.raises(Refused, match="no version 7") as refused:
        await gateway.infer(event_of(pixels()), version=7)
    assert refused.value.code is Code.UNKNOWN_VERSION


async def runtime(
    gateway: Gateway, directory: Path
) -> tuple[onnxruntime.InferenceSession, InputSpec, str]:
    registry: Registry = gateway._context.catalog.registry
    version = (await registry.get(CLASSIFIER)).version(1)
    file = await registry.fetch(version.sha256, directory=directory)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].name == version.input_name
    return session, version.input, version.input_name


def prepared(image: NDArray[np.uint8], spec: InputSpec) -> Array:
    writer = PixelWriter(spec)
    batch = writer.batch(1)
    writer.write(image, batch[0])
    return np.asarray(batch[0])


def assert_outputs(
    reply: Reply, session: onnxruntime.InferenceSession, direct: Sequence[Array]
) -> None:
    names = [output.name for output in session.get_outputs()]
    assert list(reply.tensors) == names
    for name, array in zip(names, direct, strict=True):
        assert isinstance(reply.tensors[name], np.ndarray)
        np.testing.assert_array_equal(reply.tensors[name], array[0])
