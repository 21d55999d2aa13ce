"""Videos and watched folders on the command line."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import cv2
import orjson
import pytest
import typer

from tests.mesh.conftest import picture
from tests.polling import until
from tests.visionmesh.cli.conftest import COMMAND, Run, environment
from tests.visionmesh.sources.conftest import FPS, SIZE, film, scene
from visionmesh.cli.feeding import Feed
from visionmesh.local import LocalMesh

__all__ = ["film"]


async def test_a_film_is_published_frame_by_frame(visionmesh: Run, film: Path) -> None:
    published = await visionmesh("publish", "classifier", film, "--fps", "5", "--source", "film")
    assert published.out == "10 frames published, 0 dropped.\n"
    watched = await visionmesh(
        *("watch", "classifier", "--source", "film", "--since", "1m", "--count", "10"),
        *("--ordered", "--json"),
    )
    ids = [result["id"] for result in watched.documents]
    assert [id.rpartition("-")[2] for id in ids] == [str(number) for number in range(10)]


async def test_a_film_without_news_is_one_frame(visionmesh: Run, tmp_path: Path) -> None:
    file = tmp_path / "still.mp4"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), FPS, SIZE)
    for _ in range(5):
        writer.write(scene(3))
    writer.release()
    published = await visionmesh("publish", "classifier", file, "--skip-similar")
    assert published.out == "1 frames published, 4 showed nothing new, 0 dropped.\n"


@pytest.mark.parametrize(
    ("named", "wishes", "told"),
    [
        (["rtsp://camera/1", "rtsp://camera/2"], {}, "name a video alone"),
        (["film.mp4"], {"watch": True}, "name a video alone"),
        (["film.mp4"], {"rate": 5}, "its pace is --fps"),
        (["photos"], {"fps": 5}, "are for a video"),
        (["photos"], {"skip_similar": True}, "are for a video"),
        (["photos"], {"move_to": Path("done")}, "--move-to is for --watch"),
        (["photos"], {"watch": True}, "--watch is for one folder"),
    ],
)
def test_what_does_not_go_together_is_told(
    named: list[str], wishes: dict[str, Any], told: str
) -> None:
    none = {"rate": None, "fps": None, "skip_similar": False, "watch": False, "move_to": None}
    with pytest.raises(typer.BadParameter, match=told):
        Feed.of(named, **(none | wishes))


async def test_a_file_that_is_no_video_is_told(visionmesh: Run, tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"nothing")
    finished = await visionmesh("publish", "classifier", tmp_path / "film.mp4")
    assert finished.status == 2
    assert "cannot be opened, or is no video. [unsupported_format]" in finished.err
    assert len(finished.err.splitlines()) == 1


async def test_a_folder_is_watched_until_ctrl_c(running: LocalMesh, tmp_path: Path) -> None:
    inbox, done = tmp_path / "inbox", tmp_path / "done"
    inbox.mkdir()
    (inbox / "a.jpg").write_bytes(picture())
    process = await asyncio.create_subprocess_exec(
        *(COMMAND, "publish", "classifier", inbox, "--watch", "--move-to", done, "--json"),
        env=environment(running.settings.state_dir),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    async with asyncio.timeout(20):
        first = orjson.loads(await process.stdout.readline())
        (inbox / "b.jpg").write_bytes(picture())
        second = orjson.loads(await process.stdout.readline())

    async def moved() -> bool:
        return {path.name for path in done.iterdir()} == {"a.jpg", "b.jpg"}

    await until(moved)
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(20):
        out, err = await process.communicate()
    assert [Path(line["file"]).name for line in (first, second)] == ["a.jpg", "b.jpg"]
    assert (out, process.returncode, b"Traceback" in err) == (b"", 130, False)
