"""The command that shows a whole mesh at work, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from visionmesh.cli.console import screen
from visionmesh.cli.lifecycle import until_signalled

_MODEL = Path("models/board-defects")


def demo(
    seconds: Annotated[
        float, typer.Option(min=0, help="For how long; 0 runs until Ctrl-C.")
    ] = 20.0,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where annotated pictures go.")] = Path(
        "out/demo"
    ),
    model: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder of the model that is shown.")
    ] = _MODEL,
) -> None:
    """Run a mesh of its own in a temporary folder, with images flowing through it."""
    from visionmesh.cli.showing import Show
    from visionmesh.local import LocalMesh

    if not (model / "model.yaml").is_file():
        raise typer.BadParameter(f"{model} is not a model's folder", param_hint="--model")
    with tempfile.TemporaryDirectory(prefix="visionmesh-demo-") as folder:
        mesh = LocalMesh(state=Path(folder), models=[model])
        show = Show(mesh=mesh, model=model.name, out=out, console=screen())
        asyncio.run(until_signalled(show.run(seconds=seconds or None), hurry=mesh.hurry))
    show.sum_up()
