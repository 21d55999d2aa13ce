"""Options that several commands share, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from visionmesh.bus import Connection
    from visionmesh.client import Mesh
    from visionmesh.contracts import Params
    from visionmesh.settings import Settings

_CLIENT = "visionmesh command"
_PATIENCE = timedelta(seconds=3)
"""Somebody waits in front of the terminal for a server that may not be there."""

NatsUrl = Annotated[
    str | None,
    typer.Option(
        "--nats",
        metavar="URL",
        help="The mesh's NATS server; by default the mesh that runs here, else 127.0.0.1:4222.",
        envvar="VISIONMESH_NATS_URL",
    ),
]
State = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="DIR",
        help="The state folder of the mesh; by default ~/.local/state/visionmesh.",
        envvar="VISIONMESH_STATE_DIR",
    ),
]
File = Annotated[
    Path | None,
    typer.Option(
        "--file", "-f", metavar="FILE", help="Settings in YAML.", envvar="VISIONMESH_FILE"
    ),
]
Wait = Annotated[
    float,
    typer.Option(
        "--wait",
        metavar="SECONDS",
        min=0,
        help="How long to wait until an infer worker serves what was pushed; 0: not at all.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one document per line.")]
Source = Annotated[str, typer.Option(help="Where the images come from.")]
ParamsText = Annotated[
    str | None,
    typer.Option("--params", metavar="JSON", help="Wishes, such as '{\"confidence\": 0.5}'."),
]
Images = Annotated[
    list[Path], typer.Argument(metavar="FILE|DIR…", help="Images, or folders of them.")
]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="A pushed model's name.")]


def settings_of(file: Path | None, **given: object) -> Settings:
    """Return the settings in ``file`` and the environment; what was ``given`` beats both."""
    from visionmesh.settings import load_settings

    _require_servers(given)
    return load_settings(file).model_copy(
        update={name: value for name, value in given.items() if value is not None}
    )


def _require_servers(given: Mapping[str, object]) -> None:
    from visionmesh.settings import require_server

    for setting, option in (("nats_url", "--nats"), ("redis_url", "--redis")):
        url = given.get(setting)
        try:
            if url is not None:
                require_server(setting, str(url))
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint=option) from error


def mesh_url(nats: str | None, state: Path | None) -> str:
    """Return where the mesh is: as told, else of the mesh that runs here, else the default.

    Raises
    ------
    Refused
        (mesh_unreachable) if none runs from the state folder that is named: another mesh, which
        happens to be at the default address, is not what was meant.
    """
    from visionmesh.errors import Code, Refused
    from visionmesh.state import StateFolder

    if nats is not None:
        _require_servers({"nats_url": nats})
        return nats
    settings = settings_of(None, state_dir=state)
    living = StateFolder(settings.state_dir).living()
    if living is None and state is not None:
        raise Refused(
            Code.MESH_UNREACHABLE,
            f"No mesh runs from {state}: start it with `visionmesh up`, or name its NATS server "
            "with --nats.",
        )
    return living.nats_url if living else settings.nats_url


def client(nats: str | None, state: Path | None) -> Mesh:
    """Return the client of the mesh, to be entered."""
    from visionmesh.client import Mesh

    return Mesh(mesh_url(nats, state), name=_CLIENT, connect_within=_PATIENCE)


async def connection(nats: str | None, state: Path | None) -> Connection:
    """Return a connection to the mesh, to be closed."""
    from visionmesh.bus import Connection

    return await Connection.open(mesh_url(nats, state), name=_CLIENT, within=_PATIENCE)


def duration(text: str, option: str) -> timedelta:
    """Return the duration that an option's ``text`` names."""
    from visionmesh.durations import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def params(text: str | None) -> Params | None:
    """Return the parameters that ``--params`` holds."""
    from visionmesh.errors import Reject
    from visionmesh.events import parse_params

    if text is None:
        return None
    try:
        return parse_params(text)
    except Reject as error:
        raise typer.BadParameter(error.message, param_hint="--params") from error
