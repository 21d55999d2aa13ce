"""What is wrong with a key is said before any mesh is asked."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from visionmesh.cli.app import build

NOWHERE = "nats://127.0.0.1:1"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["line-3", "--rate", "fast"], "is not a rate"),
        (["line-3", "--expires", "soon"], "is not a duration"),
        (["line-3", "--right", "everything"], "everything"),
        ([""], "1 to 63 printable characters"),
        (["line\n3"], "1 to 63 printable characters"),
    ],
)
def test_a_wrong_option_is_a_usage_error(arguments: list[str], said: str) -> None:
    finished = CliRunner().invoke(build(), ["keys", "add", *arguments, "--nats", NOWHERE])
    assert finished.exit_code == 2
    assert said in " ".join(finished.output.replace("│", " ").split())
