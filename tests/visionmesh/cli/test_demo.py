"""The demo works without a terminal, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import cv2
import psutil
import pytest

from tests.visionmesh.cli.conftest import COMMAND, environment

MODEL = Path(__file__).parents[3] / "models" / "board-defects"


@asynccontextmanager
async def demo(folder: Path, *, seconds: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the demo with everything that it makes in ``folder``; afterwards nothing is left."""
    for name in ("tmp", "shm"):
        (folder / name).mkdir()
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        *("demo", "--seconds", str(seconds), "--out", folder / "out", "--model", MODEL),
        env={
            **environment(folder / "state"),
            "TMPDIR": str(folder / "tmp"),
            "VISIONMESH_SHM_DIR": str(folder / "shm"),
        },
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(90):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert not list((folder / "tmp").iterdir())
    assert not list((folder / "shm").iterdir())
    assert not [running for running in psutil.process_iter() if _belongs_to(running, folder)]


def _belongs_to(process: psutil.Process, folder: Path) -> bool:
    try:
        found: str | None = process.environ().get("TMPDIR")
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    return found == str(folder / "tmp")


async def test_it_ends_by_itself_with_annotated_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    for name in ("board-99.jpg", "holiday.jpg"):
        (folder / name).write_bytes(b"of before")
    async with demo(tmp_path, seconds=3) as process:
        out, _ = await process.communicate()
    assert process.returncode == 0
    answered = re.search(r"^(\d+) answered.* 0 failed$", out.decode(), re.MULTILINE)
    assert answered
    assert int(answered[1]) > 10
    pictures = sorted(folder.glob("board-*.jpg"))
    assert pictures
    assert not (folder / "board-99.jpg").exists()
    assert (folder / "holiday.jpg").exists()
    assert re.search(
        rf"^{len(pictures)} annotated picture.* in {folder}$", out.decode(), re.MULTILINE
    )
    assert cv2.imread(str(pictures[0])) is not None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize("moment", ["starting", "answered"])
async def test_a_signal_ends_it_at_any_moment(
    tmp_path: Path, number: signal.Signals, moment: str
) -> None:
    async with demo(tmp_path, seconds=0) as process:
        assert process.stdout is not None
        while moment not in (await process.stdout.readline()).decode():
            assert process.returncode is None
        process.send_signal(number)
        await process.communicate()
        assert process.returncode == 0
