"""What the README shows can be done."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path

import typer.main

from tests.mesh.conftest import picture
from visionmesh.cli.app import build
from visionmesh.local import LocalMesh

README = (Path(__file__).parents[3] / "README.md").read_text()


async def test_the_plain_nats_program_gets_its_result(running: LocalMesh, tmp_path: Path) -> None:
    (tmp_path / "board.png").write_bytes(picture())
    [program] = re.findall(r"```python\n(import asyncio, nats.*?)```", README, re.DOTALL)
    assert "visionmesh" not in program
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c"),
        program.replace("nats://127.0.0.1:4222", running.nats_url).replace(
            "board-defects", "classifier"
        ),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert json.loads(out)["status"] == "ok"


def test_the_table_names_every_command() -> None:
    rows = re.findall(r"^\| (`visionmesh .*?) \|", README, re.MULTILINE)
    named = {
        words.split()[0] for row in rows for words in re.findall(r"`(?:visionmesh )?(.*?)`", row)
    }
    commands = set(typer.main.get_group(build()).commands)
    assert commands <= named
