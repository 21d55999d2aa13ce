"""Commands on the models that the mesh knows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.syntax import Syntax

from visionmesh.cli import options
from visionmesh.cli.console import print_json, print_table, screen
from visionmesh.cli.lifecycle import model_folders

if TYPE_CHECKING:
    from visionmesh.models.record import ModelRecord
    from visionmesh.models.registry import Registry


def push(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR…", help="Model folders, or folders of them.")
    ],
    wait: options.Wait = 30.0,
    nats: options.NatsUrl = None,
    state: options.State = None,
    json: options.AsJson = False,
) -> None:
    """Store models in the mesh; every worker loads them, beside what it serves now."""
    from visionmesh.cli.readiness import served
    from visionmesh.models.folder import load_folder

    loaded = [load_folder(folder) for given in folders for folder in model_folders(given)]

    async def store() -> None:
        patience = timedelta(seconds=wait)
        async with (
            _registry(nats, state) as registry,
            served(nats, state, within=patience) as pushed,
        ):
            for folder in loaded:
                record = await registry.push(folder)
                pushed.append(record)
                if json:
                    print_json(_summary(record))
                else:
                    screen().print(f"{record.spec.name}: versions {_numbers(record)}")

    asyncio.run(store())


def list_models(
    nats: options.NatsUrl = None, state: options.State = None, json: options.AsJson = False
) -> None:
    """List the models."""

    async def read() -> None:
        async with _registry(nats, state) as registry:
            records = await registry.list()
        if json:
            for record in records:
                print_json(_summary(record))
            return
        rows = [
            (
                record.spec.name,
                record.spec.task,
                _numbers(record),
                f"{record.spec.input.width}x{record.spec.input.height}",
                len(record.spec.labels),
                record.spec.description,
            )
            for record in records
        ]
        columns = ["NAME", "TASK", "VERSIONS", "INPUT", "LABELS", "DESCRIPTION"]
        print_table(columns, rows, empty="No model is pushed.")

    asyncio.run(read())


def show(
    name: options.Model,
    nats: options.NatsUrl = None,
    state: options.State = None,
    json: options.AsJson = False,
) -> None:
    """Show what the mesh knows of a model."""

    async def read() -> None:
        import yaml

        async with _registry(nats, state) as registry:
            record = await registry.get(name)
        values = record.model_dump(mode="json")
        if json:
            print_json(values)
        else:
            text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
            screen().print(Syntax(text, "yaml", background_color="default"))

    asyncio.run(read())


def remove(name: options.Model, nats: options.NatsUrl = None, state: options.State = None) -> None:
    """Remove a model from the mesh; events for it are refused from then on."""

    async def forget() -> None:
        async with _registry(nats, state) as registry:
            await registry.remove(name)

    asyncio.run(forget())
    screen().print(f"{name} is removed.")


@asynccontextmanager
async def _registry(nats: str | None, state: Path | None) -> AsyncIterator[Registry]:
    from visionmesh.models.registry import Registry

    connection = await options.connection(nats, state)
    try:
        yield Registry(connection.client)
    finally:
        await connection.close()


def _numbers(record: ModelRecord) -> str:
    return ", ".join(map(str, sorted(record.versions)))


def _summary(record: ModelRecord) -> dict[str, object]:
    return {
        "name": record.spec.name,
        "task": record.spec.task,
        "versions": sorted(record.versions),
        "traffic": record.shares,
        "labels": record.spec.labels,
        "description": record.spec.description,
    }
