"""Frames of a stock MQTT client end in results: all of them, each in one, whatever happens."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from paho.mqtt.client import Client as Camera
from paho.mqtt.enums import CallbackAPIVersion

from tests.mesh.conftest import CLASSIFIER, SETTINGS, picture, write_classifier
from tests.polling import until
from visionmesh.bus import Connection, Publisher, api
from visionmesh.client import Mesh
from visionmesh.contracts import Result, Status
from visionmesh.dead import DeadLetter, DeadLetters
from visionmesh.errors import Code, VisionmeshError
from visionmesh.local import LocalMesh
from visionmesh.settings import Settings
from visionmesh.settings.ingest import MqttSettings

IN_FLIGHT = 20
"""Of the camera, frames that are not confirmed yet."""
CAMERA = Path(__file__).parents[1] / "clients" / "mqtt_camera.py"


def settings(**changes: Any) -> Settings:
    ingest = SETTINGS.ingest.model_copy(update={"mqtt": MqttSettings(port=0)})
    return SETTINGS.model_copy(update={"ingest": ingest, **changes})


@pytest.fixture(scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalMesh]:
    root = tmp_path_factory.mktemp("mqtt")
    model = write_classifier(root / "models")
    # Little room for events: a burst of frames must wait in the gateway's stream.
    small = SETTINGS.events.model_copy(update={"max_messages": 40})
    own = settings(events=small)
    async with LocalMesh(state=root / "state", settings=own, models=[model]) as running:
        yield running


def frames(folder: Path, count: int) -> Path:
    """Write so many different images and return the folder."""
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:04}.jpg").write_bytes(picture())
    return folder


async def shoot(mesh: LocalMesh, topic: str, folder: Path, *, quality: int = 1) -> dict[str, int]:
    """Publish the folder's images as a camera does; return what it says in the end."""
    place = urlsplit(mesh.mqtt_url or "")
    arguments = (str(place.hostname), str(place.port), topic, str(quality), str(folder))
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(CAMERA), *arguments, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    told: dict[str, int] = json.loads(out)
    return told


async def results(mesh: LocalMesh, source: str, count: int) -> list[Result]:
    """Return the results of a source when there are ``count`` at least and nothing is on its way.

    A server that fails while it is read is asked again.
    """
    connection = await Connection.open(mesh.nats_url, name="test")
    subject = f"vm.results.{CLASSIFIER}.{source}.*"

    async def state(stream: str) -> dict[str, Any]:
        query = {"subjects_filter": subject}
        info = await api.request(connection.client, f"STREAM.INFO.{stream}", query)
        kept: dict[str, Any] = info["state"]
        return kept

    async def stored() -> list[str] | None:
        try:
            waiting = [await state(stream) for stream in ("$MQTT_msgs", "EVENTS")]
            found: dict[str, int] = (await state("RESULTS")).get("subjects") or {}
        except VisionmeshError:
            return None
        done = len(found) >= count and not any(kept["messages"] for kept in waiting)
        return list(found) if done else None

    subjects = await until(stored, within=60)
    messages = [
        await api.stored_message(connection.client, "RESULTS", last_by_subj=name)
        for name in subjects
    ]
    await connection.close()
    return [Result.model_validate_json(message.data) for message in messages if message]


async def until_begun(mesh: LocalMesh, source: str) -> None:
    """Return when the first results of a source are there."""
    async with Mesh(mesh.nats_url) as client:
        began = datetime.now(UTC) - timedelta(minutes=1)
        async for _ in client.results(CLASSIFIER, source=source, since=began):
            return


def hashes(folder: Path) -> set[str]:
    """Return those of a folder's files."""
    return {hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


@pytest.mark.parametrize("quality", [0, 1, 2])
async def test_a_frame_of_any_quality_is_recognised(
    mesh: LocalMesh, tmp_path: Path, quality: int
) -> None:
    source = f"camera-{quality}"
    folder = frames(tmp_path / source, 3)
    told = await shoot(mesh, f"vm/mqtt/{CLASSIFIER}/{source}", folder, quality=quality)
    assert told == {"confirmed": 3, "interrupted": 0}
    found = await results(mesh, source, 3)
    async with Mesh(mesh.nats_url) as client:
        expected = [await client.infer(CLASSIFIER, file) for file in folder.iterdir()]
    answers = {result.image.sha256: result.classes for result in found if result.image}
    assert answers == {result.image.sha256: result.classes for result in expected if result.image}
    assert len(answers) == 3


async def test_frames_that_look_the_same_are_different_frames(
    mesh: LocalMesh, tmp_path: Path
) -> None:
    folder = frames(tmp_path / "still", 1)
    for number in range(1, 5):
        (folder / f"{number}.jpg").write_bytes((folder / "0000.jpg").read_bytes())
    await shoot(mesh, f"vm/mqtt/{CLASSIFIER}/still", folder)
    assert len(await results(mesh, "still", 5)) == 5


async def test_cameras_of_the_highest_quality_do_not_hide_each_other(
    mesh: LocalMesh, tmp_path: Path
) -> None:
    for name in ("left", "right"):
        folder = frames(tmp_path / name, 2)
        await shoot(mesh, f"vm/mqtt/{CLASSIFIER}/pair", folder, quality=2)
    assert len(await results(mesh, "pair", 4)) == 4


async def test_no_confirmed_frame_is_lost_when_ingest_and_nats_are_killed_and_events_are_full(
    mesh: LocalMesh, tmp_path: Path
) -> None:
    count = 500
    folder = frames(tmp_path / "storm", count)
    shooting = asyncio.create_task(shoot(mesh, f"vm/mqtt/{CLASSIFIER}/storm", folder))
    await until_begun(mesh, "storm")
    for service in ("ingest", "nats"):
        os.kill(mesh.pids[service][0], signal.SIGKILL)
    told = await shooting
    assert told["confirmed"] == count
    assert told["interrupted"] >= 1
    found = await results(mesh, "storm", count)
    assert {result.status for result in found} == {Status.OK}
    assert {result.image.sha256 for result in found if result.image} == hashes(folder)
    # What was stored but not confirmed before the end was sent once more, as MQTT has it.
    assert count <= len({result.id for result in found}) <= count + IN_FLIGHT


async def test_what_can_become_no_event_is_dead_and_holds_nothing_up(
    mesh: LocalMesh, tmp_path: Path
) -> None:
    for number, topic in enumerate(("nobody/camera", f"{CLASSIFIER}/Not.A/name", "alone")):
        await shoot(mesh, f"vm/mqtt/{topic}", frames(tmp_path / f"lost-{number}", 1))
    connection = await Connection.open(mesh.nats_url, name="test")
    publisher = Publisher(connection=connection)
    await publisher.start()
    letters = DeadLetters(connection=connection, publisher=publisher)

    async def dead() -> list[DeadLetter] | None:
        found = [letter for letter in await letters.list() if letter.stage == "mqtt"]
        return found if len(found) >= 3 else None

    found = {letter.model: letter for letter in await until(dead)}
    assert found["nobody"].code == Code.UNKNOWN_MODEL
    assert found["nobody"].source == "camera"
    assert found[CLASSIFIER].code == Code.INVALID_NAME
    assert found["alone"].code == Code.INVALID_NAME
    _, original = await letters.get(found["nobody"].number)
    assert original.body == (tmp_path / "lost-0" / "0000.jpg").read_bytes()
    await connection.close()
    await shoot(mesh, f"vm/mqtt/{CLASSIFIER}/after", frames(tmp_path / "after", 1))
    assert len(await results(mesh, "after", 1)) == 1


async def test_a_camera_may_send_frames_and_nothing_else(mesh: LocalMesh, tmp_path: Path) -> None:
    await shoot(mesh, f"vm/events/{CLASSIFIER}/sly", frames(tmp_path / "sly", 1))
    codes = await answer(mesh, "on_subscribe", after=lambda camera: camera.subscribe("vm/#", qos=1))
    assert all(code.is_failure for code in codes)
    refused = await answer(mesh, "on_connect", password="mesh")
    assert refused.is_failure, "nobody is known by a name"
    async with Mesh(mesh.nats_url) as client:
        assert (await client.infer(CLASSIFIER, picture(), source="sly")).status is Status.OK
    assert len(await results(mesh, "sly", 1)) == 1, "that of the client, and none of the camera"


async def answer(
    mesh: LocalMesh,
    callback: str,
    *,
    after: Callable[[Camera], object] = lambda _: None,
    password: str | None = None,
) -> Any:
    """Return what the server says to a client that connects and then does something."""
    place = urlsplit(mesh.mqtt_url or "")
    camera = Camera(CallbackAPIVersion.VERSION2, client_id="curious")
    if password is not None:
        camera.username_pw_set("mesh", password)
    said: asyncio.Queue[Any] = asyncio.Queue()
    tell = asyncio.get_running_loop().call_soon_threadsafe
    camera.on_connect = lambda client, *_: after(client)
    # The fourth argument of either is the server's word.
    setattr(camera, callback, lambda *words: tell(said.put_nowait, words[3]))
    camera.connect(str(place.hostname), place.port or 0)
    camera.loop_start()
    word = await asyncio.wait_for(said.get(), 10)
    camera.disconnect()
    camera.loop_stop()
    return word
