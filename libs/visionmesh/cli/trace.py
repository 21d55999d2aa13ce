"""The command that shows where an image's time went."""

from __future__ import annotations

from typing import Annotated

import typer

from visionmesh.cli import options
from visionmesh.cli.console import print_json, screen
from visionmesh.errors import Code, Refused


def trace(
    id: Annotated[str, typer.Argument(metavar="ID", help="A trace's id, or an event's.")],
    state: options.State = None,
    json: options.AsJson = False,
) -> None:
    """Show the way of one image through the mesh that runs, or ran, here."""
    from visionmesh.telemetry.kept import read_trace
    from visionmesh.telemetry.waterfall import Waterfall, as_data

    spans = read_trace(options.settings_of(None, state_dir=state).state_dir, id)
    if not spans:
        raise Refused(Code.NOT_FOUND, f"No span of {id!r} is kept here (any more).")
    if json:
        print_json(as_data(spans))
    else:
        screen().print(Waterfall(spans))
