"""All commands of ``visionmesh``, in the groups and with the examples that its help shows."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any

import typer

from visionmesh.cli import (
    bench,
    completing,
    dead,
    demo,
    devices,
    images,
    importing,
    keys,
    lifecycle,
    models,
    trace,
    traffic,
    workshop,
)
from visionmesh.cli.console import failed, screen
from visionmesh.errors import ConfigurationError, VisionmeshError

_EXIT_CODES = (
    "Exit codes: 0 it went well; 1 the mesh or an image did not do what was asked; "
    "2 the command line, a setting or a model folder is wrong; 130 interrupted."
)

_OURS = ("", "visionmesh", "services")
"""Modules that cannot be missing: where one is, the installation is broken."""

Command = tuple[str, Callable[..., Any], str]

_RUN: tuple[Command, ...] = (
    ("up", lifecycle.up, "visionmesh up --models models"),
    ("down", lifecycle.down, "visionmesh down"),
    ("serve", lifecycle.serve, "visionmesh serve infer --nats nats://10.0.0.5:4222"),
    ("ps", lifecycle.ps, "visionmesh ps --json"),
    ("devices", devices.devices, "visionmesh devices"),
    ("demo", demo.demo, "visionmesh demo --seconds 20"),
)
_MODELS: tuple[Command, ...] = (
    ("import", importing.import_model, "visionmesh import best.onnx --task detection --name parts"),
    ("optimize", workshop.optimize, "visionmesh optimize models/cats --calibrate photos/"),
    ("verify", workshop.verify, "visionmesh verify models/cats --images photos/"),
    ("complete", completing.complete, "visionmesh complete models/cats --output cats.onnx"),
    ("push", models.push, "visionmesh push models/board-defects"),
    ("list", models.list_models, "visionmesh list"),
    ("show", models.show, "visionmesh show board-defects"),
    ("traffic", traffic.traffic, "visionmesh traffic board-defects 1=90 2=10 --shadow 3"),
    ("rollback", traffic.rollback, "visionmesh rollback board-defects"),
    ("compare", traffic.compare, "visionmesh compare board-defects 1 2 --images photos/"),
    ("rm", models.remove, "visionmesh rm board-defects"),
)
_IMAGES: tuple[Command, ...] = (
    ("publish", images.publish, "visionmesh publish board-defects photos/ --rate 50"),
    ("watch", images.watch, "visionmesh watch board-defects --since 10m"),
    ("run", images.run, "visionmesh run board-defects board.png --draw out"),
    ("bench", bench.bench, "visionmesh bench board-defects photos/ --seconds 10"),
    ("trace", trace.trace, "visionmesh trace 4bf92f3577b34da6a3ce929d0e0e4736"),
)
_DEAD: tuple[Command, ...] = (
    ("list", dead.list_dead, "visionmesh dead list --model board-defects"),
    ("show", dead.show, "visionmesh dead show 17 --save broken.jpg"),
    ("replay", dead.replay, "visionmesh dead replay 17 18"),
)
_KEYS: tuple[Command, ...] = (
    ("add", keys.add, "visionmesh keys add line-3 --model 'board-*' --rate 100/s"),
    ("list", keys.list_keys, "visionmesh keys list"),
    ("revoke", keys.revoke, "visionmesh keys revoke 5f1c09ab"),
)


def build() -> typer.Typer:
    """Return the application."""
    app = _group("Image events in, recognition results out. " + _EXIT_CODES)
    app.callback()(_any_command)
    for panel, commands in (("Mesh", _RUN), ("Models", _MODELS), ("Images", _IMAGES)):
        _add(app, commands, panel)
    letters = _group(
        "What could not be answered: look at it, and try it again.",
        example="visionmesh dead list --last 10",
    )
    _add(letters, _DEAD, None)
    app.add_typer(letters, name="dead", rich_help_panel="Images")
    secrets = _group(
        "API keys: who may do what over HTTP and gRPC, and how often.",
        example="visionmesh keys add line-3",
    )
    _add(secrets, _KEYS, None)
    app.add_typer(secrets, name="keys", rich_help_panel="Mesh")
    return app


def _tell_version(wanted: bool) -> None:
    if wanted:
        screen().print(f"visionmesh {version('visionmesh')}")
        raise typer.Exit


def _any_command(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_tell_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    return


def _group(text: str, *, example: str | None = None) -> typer.Typer:
    return typer.Typer(
        help=text,
        epilog=f"Example: {example}" if example else None,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
    )


def _add(app: typer.Typer, commands: tuple[Command, ...], panel: str | None) -> None:
    for name, function, example in commands:
        epilog = f"Example: {example}\n\n{_EXIT_CODES}"
        app.command(name, epilog=epilog, rich_help_panel=panel)(function)


def main() -> None:
    """Run the command line; what goes wrong as foreseen becomes one line and an exit code."""
    # What a command cannot do it says itself, once.
    logging.getLogger("visionmesh").setLevel(logging.ERROR)
    # ONNX Runtime reports to its maker otherwise, from `push` as from a worker.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        build()()
    except VisionmeshError as error:
        failed(error.message, error.code)
        sys.exit(2 if isinstance(error, ConfigurationError) else 1)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in _OURS:
            raise
        failed(f"{error.msg}: pip install 'visionmesh[all]'.")
        sys.exit(2)
    except OSError as error:
        if error.filename is None:
            raise
        failed(f"{error.filename}: {error.strerror}")
        sys.exit(2)
