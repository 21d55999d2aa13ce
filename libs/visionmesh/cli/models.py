"""Commands on the models that the mesh knows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from visionmesh.cli import options
from visionmesh.cli.console import aside, print_json, print_table, screen
from visionmesh.cli.lifecycle import model_folders

if TYPE_CHECKING:
    from visionmesh.models.folder import ModelFolder
    from visionmesh.models.record import ModelRecord
    from visionmesh.models.registry import Registry

_LABELS_SHOWN = 12


def push(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR…", help="Model folders, or folders of them.")
    ],
    *,
    version: Annotated[
        int | None, typer.Option(metavar="VERSION", min=1, help="Only this one of the folder's.")
    ] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Also where the mesh has another network of that number."),
    ] = False,
    wait: options.Wait = 30.0,
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check", help="Try what the mesh does not have on made-up images before."
        ),
    ] = True,
    nats: options.NatsUrl = None,
    state: options.State = None,
    json: options.AsJson = False,
) -> None:
    """Store models in the mesh; every worker loads them, beside what it serves now."""
    from visionmesh.cli.readiness import Pushed, served
    from visionmesh.models.folder import load_folder

    loaded = [load_folder(folder) for given in folders for folder in model_folders(given)]

    async def store() -> None:
        patience = timedelta(seconds=wait)
        async with (
            _registry(nats, state) as registry,
            served(nats, state, within=patience) as pushed,
        ):
            before = await registry.list()
            records = {record.spec.name: record for record in before}
            for folder in loaded if check else ():
                await asyncio.to_thread(_try, folder, version, records.get(folder.spec.name))
            for folder in loaded:
                record = await registry.push(folder, version=version, replace=replace)
                numbers = list(folder.versions) if version is None else [version]
                pushed.append(Pushed(record, changed=record not in before))
                if json:
                    print_json(_summary(record))
                else:
                    screen().print(f"{record.spec.name}: versions {_numbers(record)}")
                    _say_who_answers(record)
                    _say_what_runs(record, numbers)
                for number in _stale(folder, record, numbers):
                    aside().print(
                        f"{record.spec.name}/{number}: variants.json is of another network and is "
                        "left out; run `visionmesh optimize` again."
                    )

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
    """Show what a model is, what it takes, and what becomes of its versions."""
    from visionmesh.cli import versions
    from visionmesh.models.registry import Registry
    from visionmesh.nodes import list_nodes

    async def read() -> None:
        connection = await options.connection(nats, state)
        try:
            record = await Registry(connection.client).get(name)
            workers = await list_nodes(connection.client)
        finally:
            await connection.close()
        failures = [one for one in versions.failures(workers) if one.concerns(name)]
        if json:
            states = {str(v): versions.state_of(record, v, workers) for v in record.versions}
            told = [asdict(failure) for failure in failures]
            print_json({**record.model_dump(mode="json"), "states": states, "failures": told})
            return
        print_table(["", ""], _facts(record), empty="")
        screen().print()
        print_table(versions.COLUMNS, versions.rows(record, workers), empty="")
        versions.print_reasons(workers, name)
        versions.print_failures(failures)

    asyncio.run(read())


def remove(
    name: options.Model,
    version: Annotated[
        int | None,
        typer.Option(metavar="VERSION", min=1, help="Only this one, which must have no traffic."),
    ] = None,
    nats: options.NatsUrl = None,
    state: options.State = None,
) -> None:
    """Remove a model from the mesh, or a version; events for the model are refused from then on."""

    async def forget() -> None:
        async with _registry(nats, state) as registry:
            if version is None:
                await registry.remove(name)
            else:
                await registry.change(name, lambda record: record.without(version))

    asyncio.run(forget())
    screen().print(f"{name} is removed." if version is None else f"{name}/{version} is removed.")


@asynccontextmanager
async def _registry(nats: str | None, state: Path | None) -> AsyncIterator[Registry]:
    from visionmesh.models.registry import Registry

    connection = await options.connection(nats, state)
    try:
        yield Registry(connection.client)
    finally:
        await connection.close()


def _try(folder: ModelFolder, version: int | None, known: ModelRecord | None) -> None:
    """Raise `ConfigurationError` if what the mesh does not have just so is not fit to serve."""
    from visionmesh.models.check import inspect
    from visionmesh.models.push import selected
    from visionmesh.models.verifying import quick

    spec = folder.spec
    for number, files in selected(folder, version).items():
        stored = known.versions.get(number) if known else None
        there = stored and (stored.sha256, stored.variants) == (files.sha256, files.variants)
        if not (stored and there and stored.fits(spec)):
            inspect(files.weights, spec)
            quick(spec, files)


def _say_who_answers(record: ModelRecord) -> None:
    """Tell of weights that keep the newest version from answering."""
    newest = record.newest
    if newest not in record.shares:
        answering = ", ".join(map(str, record.shares))
        aside().print(
            f"{record.spec.name}: traffic goes to version {answering} as told before, none to "
            f"{newest}; `visionmesh traffic {record.spec.name} {newest}=100` gives it all."
        )


def _say_what_runs(record: ModelRecord, pushed: Iterable[int]) -> None:
    """Tell what workers make of smaller networks and of what was measured."""
    from visionmesh.models.running import running_here

    for number in pushed:
        stored = record.version(number)
        if stored.variants is not None:
            here = running_here(record.spec_of(number), stored)
            screen().print(
                f"{record.spec.name}/{number}: on a CPU like this one {here.running} ({here.why})"
            )


def _stale(folder: ModelFolder, record: ModelRecord, pushed: Iterable[int]) -> Iterator[int]:
    """Return the versions whose variants the folder has, but not for their network."""
    for number in pushed:
        there = (folder.versions[number].parent / "variants.json").is_file()
        if there and record.version(number).variants is None:
            yield number


def _facts(record: ModelRecord) -> Iterator[tuple[str, str]]:
    """Return what is the same for all versions, each with its name."""
    spec, image = record.spec, record.spec.input
    yield "name", spec.name
    yield "task", spec.task
    if record.card:
        yield "card", record.card
    yield "input", f"{image.width}x{image.height} {image.color} {image.dtype}, {image.resize}"
    output = spec.output.model_dump(mode="json", exclude_defaults=True)
    yield "output", ", ".join(f"{key}: {value}" for key, value in output.items())
    if spec.labels:
        more = ", ..." if len(spec.labels) > _LABELS_SHOWN else ""
        shown = ", ".join(spec.labels[:_LABELS_SHOWN])
        yield "labels", f"{len(spec.labels)}: {shown}{more}"
    yield "sticky by", record.traffic.sticky
    if spec.keep_alive is not None:
        yield "keep alive", f"{spec.keep_alive.total_seconds():g} s"


def _numbers(record: ModelRecord) -> str:
    return ", ".join(map(str, sorted(record.versions)))


def _summary(record: ModelRecord) -> dict[str, object]:
    return {
        "name": record.spec.name,
        "task": record.spec.task,
        "versions": sorted(record.versions),
        "traffic": {str(version): weight for version, weight in record.shares.items()},
        "labels": record.spec.labels,
        "description": record.spec.description,
    }
