"""Help is complete and quick; what goes wrong is one line and an exit code."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from tests.visionmesh.cli.conftest import environment, finish
from visionmesh.cli.app import build

PROJECT = Path(__file__).parents[3] / "pyproject.toml"


def names() -> Iterator[list[str]]:
    group = typer.main.get_group(build())
    for name, command in group.commands.items():
        if isinstance(command, typer.core.TyperGroup):
            yield from ([name, inner] for inner in command.commands)
        else:
            yield [name]


@pytest.mark.parametrize("command", list(names()), ids=" ".join)
def test_every_command_has_help_with_an_example_of_itself_and_its_exit_codes(
    command: list[str],
) -> None:
    result = CliRunner().invoke(build(), [*command, "--help"])
    assert result.exit_code == 0
    assert f"Example: visionmesh {' '.join(command)}" in result.output
    assert "Exit codes: 0 " in " ".join(result.output.split())


def test_the_group_of_dead_letters_has_an_example_too() -> None:
    result = CliRunner().invoke(build(), ["dead", "--help"])
    assert "Example: visionmesh dead list" in result.output


def test_the_version_is_that_of_the_package() -> None:
    result = CliRunner().invoke(build(), ["--version"])
    project = tomllib.loads(PROJECT.read_text())["project"]
    assert (result.exit_code, result.output) == (0, f"visionmesh {project['version']}\n")


def test_the_help_tells_the_exit_codes() -> None:
    assert "Exit codes: 0 " in " ".join(CliRunner().invoke(build(), ["--help"]).output.split())


def test_help_loads_nothing_that_is_slow() -> None:
    program = "import sys; from visionmesh.cli.app import build; build(); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True
    ).stdout.split()
    assert not {"numpy", "nats", "cv2", "pydantic", "yaml", "redis"} & set(loaded)


async def test_an_unreachable_mesh_is_one_line(tmp_path: Path) -> None:
    finished = await finish(tmp_path, "list", "--nats", "nats://127.0.0.1:9")
    assert finished.status == 1
    assert finished.err.splitlines() == [
        "No NATS server answers at nats://127.0.0.1:9: start one with `visionmesh up`, "
        "or name another with --nats. [mesh_unreachable]"
    ]
    assert finished.out == ""


async def test_a_named_mesh_that_does_not_run_is_not_taken_for_another(tmp_path: Path) -> None:
    finished = await finish(tmp_path, "list")
    assert finished.status == 1
    assert finished.err.startswith(f"No mesh runs from {tmp_path}: ")
    assert finished.err.endswith("[mesh_unreachable]\n")


async def test_a_wrong_setting_names_the_field(tmp_path: Path) -> None:
    settings = tmp_path / "mesh.yaml"
    settings.write_text("infer: {replicas: many}")
    finished = await finish(tmp_path, "up", "-f", settings)
    assert finished.status == 2
    assert len(finished.err.splitlines()) == 1
    assert "infer.replicas" in finished.err


async def test_a_folder_without_a_model_is_a_usage_error(tmp_path: Path) -> None:
    finished = await finish(tmp_path, "push", tmp_path)
    assert finished.status == 2
    assert "model.yaml" in finished.err


async def test_down_without_a_mesh_is_no_failure(tmp_path: Path) -> None:
    finished = await finish(tmp_path, "down")
    assert finished.status == 0
    assert finished.out == "No mesh runs here.\n"


def test_the_environment_of_these_tests_knows_no_other_mesh(tmp_path: Path) -> None:
    known = {name: v for name, v in environment(tmp_path).items() if name.startswith("VISIONMESH")}
    assert known == {"VISIONMESH_STATE_DIR": str(tmp_path)}
