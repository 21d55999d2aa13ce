"""The command `import`: options become wishes, and what was found is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.networks import save_network
from tests.visionmesh.cli.conftest import Finished, finish
from visionmesh.models.folder import load_folder


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return save_network(tmp_path / "trees.onnx", shape=("n", 3, "h", "w"))


async def brought(network: Path, *more: str) -> Finished:
    models = network.parent / "models"
    given = ("--name", "trees", "--models", models)
    return await finish(network.parent, "import", network, *given, *more)


async def test_options_become_the_spec(network: Path) -> None:
    (network.parent / "names.txt").write_text("ash\nbirch\ncedar\ndogwood\n")
    finished = await brought(
        network,
        *("--task", "classification", "--input", "6x8", "--resize", "stretch", "--color", "BGR"),
        *("--scale", "1/255", "--mean", "0.1,0.2,0.3", "--std", "0.5"),
        *("--set", "activation=sigmoid", "--set", "top_k=2"),
        *("--labels", str(network.parent / "names.txt"), "--json"),
    )
    assert (finished.status, finished.err) == (0, "")
    (told,) = finished.documents
    assert (told["version"], told["batch"]) == (1, None)
    assert told["facts"]["input.scale"]["origin"] == "given"
    spec = load_folder(Path(told["folder"])).spec
    assert (spec.input.width, spec.input.height, spec.input.resize) == (6, 8, "stretch")
    assert (spec.input.color, spec.input.mean) == ("BGR", (0.1, 0.2, 0.3))
    assert spec.input.scale == pytest.approx(1 / 255)
    assert (spec.output.top_k, spec.output.parameters) == (2, {"activation": "sigmoid"})
    assert spec.labels == ("ash", "birch", "cedar", "dogwood")


async def test_what_was_assumed_is_told_with_the_option_that_changes_it(network: Path) -> None:
    finished = await brought(network, "--task", "classification", "--input", "6x8")
    assert finished.status == 0
    (line,) = [line for line in finished.out.splitlines() if line.startswith("input.mean")]
    assert line.split()[4] == "assumed"
    assert line.split()[-1] == "--mean"
    assert "next: visionmesh push" in finished.out


async def test_what_must_be_said_is_one_line(network: Path) -> None:
    finished = await brought(network)
    assert finished.status == 2
    (line,) = finished.err.splitlines()
    assert "say it with --input" in line
    assert line.endswith("[model_invalid]")
    assert not list((network.parent / "models").iterdir())


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--input", "0x8", "write 640"),
        ("--scale", "1/0", "is no number"),
        ("--color", "pink", "is none of RGB, BGR, GRAY"),
        ("--task", "guessing", "is none of classification"),
        ("--set", "activation", "must be KEY=VALUE"),
        ("--set", "a=[", "is no YAML value"),
    ],
)
async def test_a_wrong_option_is_named(
    network: Path, option: str, value: str, message: str
) -> None:
    finished = await brought(network, option, value)
    assert finished.status == 2
    assert message in " ".join(finished.err.replace("│", " ").split())
