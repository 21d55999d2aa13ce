"""Commands on DEAD: events that ended in an error, with their images."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from visionmesh.cli import options
from visionmesh.cli.console import failed, print_json, print_table, screen

if TYPE_CHECKING:
    from visionmesh.dead import DeadLetters

Number = Annotated[int, typer.Argument(metavar="NUMBER", min=1, help="As `dead list` shows it.")]


def list_dead(
    model: Annotated[str | None, typer.Option(help="Only of this model.")] = None,
    last: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 50,
    nats: options.NatsUrl = None,
    state: options.State = None,
    json: options.AsJson = False,
) -> None:
    """List what could not be answered, the newest last."""

    async def read() -> None:
        async with _letters(nats, state) as letters:
            found = await letters.list(model=model, last=last)
        if json:
            for letter in found:
                print_json(letter.model_dump(mode="json"))
            return
        print_table(
            ["NUMBER", "TIME", "STAGE", "MODEL", "SOURCE", "ID", "CODE", "MESSAGE"],
            (
                (
                    letter.number,
                    f"{letter.time.astimezone():%F %T}",
                    letter.stage,
                    letter.model,
                    letter.source,
                    letter.id,
                    letter.code,
                    letter.message,
                )
                for letter in found
            ),
            empty="Nothing is dead.",
        )

    asyncio.run(read())


def show(
    number: Number,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the image as it came.")
    ] = None,
    nats: options.NatsUrl = None,
    state: options.State = None,
    json: options.AsJson = False,
) -> None:
    """Show one dead event, and save its image."""

    async def read() -> None:
        async with _letters(nats, state) as letters:
            letter, original = await letters.get(number)
        if save is not None:
            save.write_bytes(original.body)
        values = {**letter.model_dump(mode="json"), "headers": original.headers}
        if json:
            print_json(values)
        else:
            rows = [(name, value) for name, value in values.items() if name != "headers"]
            rows += [(f"  {name}", value) for name, value in original.headers.items()]
            print_table(["", ""], [*rows, ("bytes", len(original.body))], empty="")

    asyncio.run(read())


def replay(
    numbers: Annotated[
        list[int], typer.Argument(metavar="NUMBER…", min=1, help="As `dead list` shows them.")
    ],
    nats: options.NatsUrl = None,
    state: options.State = None,
    json: options.AsJson = False,
) -> None:
    """Publish dead events again, without their deadline; each answers under a new id."""
    from visionmesh.errors import Refused, Reject

    async def again() -> int:
        refused = 0
        async with _letters(nats, state) as letters:
            for number in numbers:
                try:
                    id = await letters.replay(number)
                except (Refused, Reject) as error:
                    failed(f"{number}: {error.message}", error.code)
                    refused += 1
                    continue
                if json:
                    print_json({"number": number, "id": id})
                else:
                    screen().print(f"{number} is published again as {id}")
        return refused

    if asyncio.run(again()):
        raise typer.Exit(1)


@asynccontextmanager
async def _letters(nats: str | None, state: Path | None) -> AsyncIterator[DeadLetters]:
    from visionmesh.bus import Publisher
    from visionmesh.dead import DeadLetters

    connection = await options.connection(nats, state)
    try:
        publisher = Publisher(connection=connection)
        await publisher.start()
        yield DeadLetters(connection=connection, publisher=publisher)
    finally:
        await connection.close()
