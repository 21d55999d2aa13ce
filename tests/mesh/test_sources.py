"""Videos and cameras on their way into a mesh."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import cv2
import pytest

from tests.mesh.conftest import CLASSIFIER
from tests.visionmesh.sources.conftest import Stream, film, scene, streaming
from visionmesh import subjects
from visionmesh.bus import Connection, topology
from visionmesh.client import Mesh
from visionmesh.contracts import Result, Status
from visionmesh.errors import Code, Refused
from visionmesh.settings import EventsSettings
from visionmesh.sources.pump import Pump, Tally
from visionmesh.sources.similar import Scene
from visionmesh.sources.video import Video

__all__ = ["film"]


@pytest.fixture
async def stream() -> AsyncIterator[Stream]:
    async with streaming() as running:
        yield running


async def results_of(mesh: Mesh, source: str, number: int) -> list[Result]:
    results = mesh.results(CLASSIFIER, source=source, after=0, ordered=True)
    async with aclosing(results), asyncio.timeout(20):
        return [await anext(results) for _ in range(number)]


async def test_each_frame_of_a_file_has_a_result_in_the_order_of_the_film(
    mesh: Mesh, film: Path
) -> None:
    ids: list[str] = []

    def told(_: Tally, id: str | None) -> None:
        assert id is not None
        ids.append(id)

    pump = Pump(mesh=mesh, model=CLASSIFIER, source="film")
    tally = await pump.run(Video(str(film)), each=told)
    assert (tally.published, tally.similar, tally.dropped) == (20, 0, 0)
    found = await results_of(mesh, "film", 20)
    assert [result.id for result in found] == ids
    assert {result.status for result in found} == {Status.OK}
    session = ids[0].removesuffix("-0")
    assert ids == [f"{session}-{number}" for number in range(20)]


async def test_frames_that_show_nothing_new_are_left_out(mesh: Mesh, tmp_path: Path) -> None:
    file = tmp_path / "still.mp4"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for corner in (0, 0, 0, 24, 24, 24):
        pixels = scene(5)
        pixels[:24, corner : corner + 24] = 200
        writer.write(pixels)
    writer.release()
    pump = Pump(mesh=mesh, model=CLASSIFIER, source="still", scene=Scene())
    tally = await pump.run(Video(str(file)), each=lambda *_: None)
    assert (tally.published, tally.similar) == (2, 4)


async def test_a_full_mesh_drops_frames_of_a_stream_and_takes_later_ones(
    stream: Stream, nats_url: str
) -> None:
    """A server of its own limits: nobody answers, so EVENTS is full until it is emptied."""
    small = EventsSettings(max_messages=3)
    connection = await Connection.open(nats_url, name="test")
    client = connection.client
    await topology.ensure_streams(client, small)
    await topology.ensure_stream(client, topology.events_config(small, ["camera"]))
    tallies: asyncio.Queue[Tally] = asyncio.Queue()

    async def when(published: int, refused: int) -> None:
        async with asyncio.timeout(20):
            while (now := await tallies.get()).published < published or now.refused < refused:
                pass

    async with Mesh(nats_url) as mesh:
        pump = Pump(mesh=mesh, model="camera", source="gate")
        running = asyncio.create_task(
            pump.run(
                Video(stream.url, fps=50),
                each=lambda now, _: tallies.put_nowait(Tally(**_fields(now))),
            )
        )
        await when(3, 2)
        await client.jetstream().purge_stream(subjects.EVENTS)
        await when(6, 2)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    await client.jetstream().purge_stream(subjects.EVENTS)
    await topology.ensure_stream(client, topology.events_config(EventsSettings(), []))
    await connection.close()


def _fields(tally: Tally) -> dict[str, int]:
    return {name: getattr(tally, name) for name in Tally.__slots__}


async def test_an_unknown_model_ends_it(mesh: Mesh, film: Path) -> None:
    pump = Pump(mesh=mesh, model="nobody", source="film")
    with pytest.raises(Refused) as caught:
        await pump.run(Video(str(film)), each=lambda *_: None)
    assert caught.value.code is Code.UNKNOWN_MODEL
