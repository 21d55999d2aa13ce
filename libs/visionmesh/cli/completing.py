"""`visionmesh complete`: one file for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from visionmesh.cli import options
from visionmesh.cli.console import print_json, print_table, screen
from visionmesh.cli.workshop import Folder, Version

if TYPE_CHECKING:
    from visionmesh.contracts import TensorMeta


def complete(
    *,
    folder: Folder,
    embed: Annotated[
        str,
        typer.Option(
            metavar="PART[,PART]",
            help="preprocess takes uint8 images of the input's size, with resize of any; "
            "postprocess gives scores, or boxes that are not covered.",
        ),
    ] = "preprocess,postprocess",
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="By default complete.onnx beside the network.", dir_okay=False
        ),
    ] = None,
    version: Version = None,
    json: options.AsJson = False,
) -> None:
    """Write a network with its pre- and postprocessing as one ONNX file for other runtimes.

    The mesh goes on with the network alone. `verify` compares complete.onnx with it.
    """
    from visionmesh.models.completing import Part
    from visionmesh.models.completing import complete as make
    from visionmesh.models.folder import load_folder

    names = [name.strip() for name in embed.split(",")]
    unknown = [name for name in names if name not in set(Part)]
    if unknown:
        raise typer.BadParameter(
            f"{unknown[0]!r} is none of {', '.join(Part)}", param_hint="--embed"
        )
    made = make(load_folder(folder), [Part(name) for name in names], version=version, target=output)
    if json:
        print_json(made.model_dump(mode="json"))
        return
    rows = [("in", *_row(meta)) for meta in made.inputs]
    rows += [("out", *_row(meta)) for meta in made.outputs]
    print_table(["", "NAME", "DTYPE", "SHAPE"], rows, empty="")
    screen().print(
        f"{made.file}: {', '.join(made.parts)} of {made.model}, version {made.version}, "
        f"{made.size_bytes / 1e6:.1f} MB"
    )


def _row(meta: TensorMeta) -> tuple[str, str, str]:
    shape = ", ".join("any" if size < 0 else str(size) for size in meta.shape)
    return meta.name, meta.dtype, f"({shape})"
