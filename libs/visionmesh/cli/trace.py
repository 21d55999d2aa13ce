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
    """Show the way of each image of a trace through the mesh that runs, or ran, here.

    With --json each line is one image.
    """
    from visionmesh.telemetry.kept import read_trace
    from visionmesh.telemetry.waterfall import Waterfall, as_data, by_image

    spans = read_trace(options.settings_of(None, state_dir=state).state_dir, id)
    if not spans:
        raise Refused(Code.NOT_FOUND, f"No span of {id!r} is kept here (any more).")
    for number, image in enumerate(by_image(spans, id)):
        if json:
            print_json(as_data(image))
        else:
            screen().print("\n" if number else "", Waterfall(image), sep="", end="")
