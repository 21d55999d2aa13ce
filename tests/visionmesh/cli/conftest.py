"""A mesh for the commands, and a way to run them as a user does."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest

from tests.mesh.conftest import picture, write_classifier
from visionmesh.local import LocalMesh

COMMAND = Path(sys.executable).parent / "visionmesh"


class Finished(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def documents(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Awaitable[Finished]]


def environment(state: Path) -> dict[str, str]:
    """Return an environment that knows of no mesh but that of ``state``."""
    plain = {name: value for name, value in os.environ.items() if "VISIONMESH" not in name}
    return {**plain, "VISIONMESH_STATE_DIR": str(state)}


async def finish(state: Path, *arguments: str | Path) -> Finished:
    """Run one command to its end."""
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        *arguments,
        env=environment(state),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Finished(process.returncode, out.decode(), err.decode())


@pytest.fixture(scope="session")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalMesh]:
    """A mesh with the small classifier."""
    root = tmp_path_factory.mktemp("cli")
    model = write_classifier(root / "models")
    async with LocalMesh(state=root / "state", models=[model]) as mesh:
        yield mesh


@pytest.fixture
def visionmesh(running: LocalMesh) -> Run:
    """Run a command against that mesh, which it finds by its state folder."""

    async def run(*arguments: str | Path) -> Finished:
        return await finish(running.settings.state_dir, *arguments)

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with three images, one of them in a folder in it, and something else."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name, kind in (("a.jpg", "JPEG"), ("b.PNG", "PNG"), ("more/c.webp", "WEBP")):
        (folder / name).write_bytes(picture(kind=kind))
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    file = tmp_path / "broken.jpg"
    file.write_bytes(os.urandom(100))
    return file
