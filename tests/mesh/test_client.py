"""The client against the mesh: whatever a picture is given as, one at a time and many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.mesh.conftest import CLASSIFIER, picture
from visionmesh import BlockingMesh, subjects
from visionmesh.bus import Connection, topology
from visionmesh.client import Mesh
from visionmesh.contracts import Params, Status
from visionmesh.errors import Code, Refused
from visionmesh.local import LocalMesh
from visionmesh.settings import EventsSettings

TRACE = "0af7651916cd43dd8448eb211c80319c"


async def test_pixels_pillow_files_and_bytes_have_the_same_answer(
    mesh: Mesh, tmp_path: Path
) -> None:
    file = picture(kind="PNG")
    (tmp_path / "a.png").write_bytes(file)
    image = Image.open(BytesIO(file))
    given = (file, tmp_path / "a.png", str(tmp_path / "a.png"), np.asarray(image), image)
    found = [await mesh.infer(CLASSIFIER, one) for one in given]
    assert {one.status for one in found} == {Status.OK}
    assert len({one.classes for one in found}) == 1


async def test_many_images_are_answered_in_their_order(mesh: Mesh) -> None:
    images = [picture() for _ in range(40)]
    expected = [(await mesh.infer(CLASSIFIER, image)).classes for image in images]
    async with aclosing(mesh.infer_many(CLASSIFIER, iter(images), at_once=8)) as results:
        assert [one.classes async for one in results] == expected

    async def camera() -> AsyncIterator[bytes]:
        for image in images[:5]:
            yield image

    results = mesh.infer_many(CLASSIFIER, camera(), ordered=False)
    found = {int(one.id.rpartition("-")[2]): one.classes async for one in results}
    assert found == dict(enumerate(expected[:5]))


async def test_the_blocking_client_does_the_same(local_mesh: LocalMesh) -> None:
    def script() -> None:
        images = [picture() for _ in range(6)]
        with BlockingMesh(local_mesh.nats_url) as mesh:
            found = list(mesh.infer_many(CLASSIFIER, images, at_once=3))
            assert [int(one.id.rpartition("-")[2]) for one in found] == list(range(6))
            read = mesh.results(CLASSIFIER, after=0, ordered=True)
            assert next(read).sequence is not None

    await asyncio.to_thread(script)


async def test_the_first_refusal_ends_many(mesh: Mesh) -> None:
    with pytest.raises(Refused) as caught:
        await anext(mesh.infer_many("nobody", [picture()] * 3))
    assert caught.value.code is Code.UNKNOWN_MODEL


async def test_parameters_may_be_a_mapping(mesh: Mesh) -> None:
    image = picture()
    asked = await mesh.infer(CLASSIFIER, image, params={"top_k": 2})
    assert asked.classes is not None
    assert len(asked.classes) == 2
    assert (await mesh.infer(CLASSIFIER, image, params=Params(top_k=2))).classes == asked.classes
    with pytest.raises(ValueError, match="topk"):
        await mesh.infer(CLASSIFIER, image, params={"topk": 2})


async def test_the_trace_of_a_caller_goes_on(mesh: Mesh) -> None:
    parent = f"00-{TRACE}-b7ad6b7169203331-01"
    assert (await mesh.infer(CLASSIFIER, picture(), traceparent=parent)).trace_id == TRACE


async def test_a_full_mesh_is_tried_again_as_long_as_wanted(nats_url: str) -> None:
    """A server of its own limits: nobody answers, so EVENTS is full until it is emptied."""
    small = EventsSettings(max_messages=1)
    connection = await Connection.open(nats_url, name="test")
    client = connection.client
    await topology.ensure_streams(client, small)
    await topology.ensure_stream(client, topology.events_config(small, ["retried"]))
    async with Mesh(nats_url) as mesh:
        await mesh.publish("retried", b"first")
        with pytest.raises(Refused) as caught:
            await mesh.publish("retried", b"second")
        assert caught.value.code is Code.MESH_FULL
        with pytest.raises(Refused) as caught:
            await mesh.infer("retried", b"second", timeout=timedelta(seconds=2))
        assert caught.value.code is Code.MESH_FULL
        patient = asyncio.create_task(
            mesh.publish("retried", b"second", id="x", retry_for=timedelta(seconds=20))
        )
        done, _ = await asyncio.wait([patient], timeout=0.2)
        assert not done
        await client.jetstream().purge_stream(subjects.EVENTS)
        assert await patient == "x"
        stored = await client.jetstream().stream_info(subjects.EVENTS)
        assert stored.state.messages == 1
    await client.jetstream().purge_stream(subjects.EVENTS)
    await topology.ensure_stream(client, topology.events_config(EventsSettings(), []))
    await connection.close()
